"""Warnings of the log: each rule by hand, and silence over all runs that were well."""

import pytest

from common.exercises import ROOT
from common.health import RULES, Health
from common.metrics import Logger, read_metrics

WRONG = {
    "posterior collapse": {"world_model/latent_use": 0.0},
    "exploding gradient": {"world_model/grad_norm": 5e3},
    "continue head inverted": {"world_model/cont_accuracy": 0.2},
    "values too high": {"policy/imagined_return": 11.0, "policy/episode_return": -20.0, "policy/episode_length": 1000},
}
WELL = {
    "posterior collapse": {"world_model/latent_use": 0.01},
    "exploding gradient": {"world_model/grad_norm": 3.0},
    "continue head inverted": {"world_model/cont_accuracy": 0.5},
    "values too high": {"policy/imagined_return": -1.0, "policy/episode_return": -20.0, "policy/episode_length": 1000},
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_speaks_once_after_its_patience(name):
    """Not before, not again; a line that is well starts the count anew; one without its metrics does not."""
    health, patience = Health(), RULES[name].patience
    look = lambda line: [warning.split(": ")[1] for warning in health.look(line)]
    assert look(WELL[name]) == []
    for _ in range(patience - 1):
        assert look(WRONG[name]) == []
    if patience > 1:
        assert look(WELL[name]) == []
    for k in range(1, 3 * patience):
        assert look({"policy/entropy": 1.0}) == []
        assert look(WRONG[name]) == ([name] if k == patience else [])
    assert look(WELL[name]) == []
    assert [look(WRONG[name]) for _ in range(patience)] == [[]] * patience, "not said a second time"


@pytest.mark.parametrize("name", RULES)
def test_the_guide_has_the_section(name):
    assert f"\n### {RULES[name].section}\n" in (ROOT / "IMPLEMENTATION_GUIDE.md").read_text()


def test_a_gradient_that_is_no_number_is_one_too_many():
    health = Health()
    assert health.look({"world_model/grad_norm": 1.0}) == []
    assert "exploding gradient" in health.look({"world_model/grad_norm": float("nan")})[0]


def test_the_log_prints_it(tmp_path, capsys):
    with Logger(tmp_path, tensorboard=False) as logger:
        for step in range(9):
            logger.log({"world_model/cont_accuracy": 0.1}, step=step, frames=step)
    said = capsys.readouterr().err
    assert said.count("warning: continue head inverted: rows that go on are taken for ends") == 1
    assert '"Dreams end at once, or never" in IMPLEMENTATION_GUIDE.md' in said


def test_a_resumed_run_remembers(tmp_path, capsys):
    """What was said is not said again, and a gradient is held against the first of all."""
    for first in (0, 10):
        with Logger(tmp_path, tensorboard=False) as logger:
            for step in range(first, first + 9):
                line = {"world_model/cont_accuracy": 0.1, "world_model/grad_norm": 1.0 if first == 0 else 5e3}
                logger.log(line, step=step, frames=step)
        said = capsys.readouterr().err
        assert said.count("continue head inverted") == (first == 0)
        assert said.count("exploding gradient") == (first == 10)


def test_a_time_limit_makes_values_larger_than_returns():
    """1 a step, for 25 steps: to a value of a discount of 1 - 1/333 there is no end."""
    health = Health()
    line = {"policy/imagined_return": 300.0, "policy/episode_return": 25.0, "policy/episode_length": 25.0}
    assert [health.look(line) for _ in range(9)] == [[]] * 9


def test_runs_that_were_well_raise_no_alarm():
    logs = sorted(ROOT.glob("solutions/results/**/metrics*.jsonl"))
    assert len(logs) > 20
    for path in logs:
        health = Health()
        assert [warning for line in read_metrics(path) for warning in health.look(line)] == [], path
