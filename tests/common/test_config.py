"""The command line: which preset, which environment, and what --resume starts from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import option, parse_config, pick_device, without
from common.errors import UserError
from common.run_folder import open_run
from tests.common.toys import ToyConfig

PRESETS = {
    "tiny": ToyConfig(size=3),
    "small": ToyConfig(env="CarRacing-v3", size=30, action_repeat=4),
    "paper": ToyConfig(env="CarRacing-v3", size=300, steps=10_000),
}


def parse(*argv: str, runs: Path = Path("nowhere")) -> ToyConfig:
    return parse_config(PRESETS, runs, list(argv))


# ---- presets and environments ----


@pytest.mark.parametrize(
    ("argv", "preset", "env"),
    [
        ([], "tiny", "TinyCatch-v0"),
        (["--env", "TinyRacer-v0"], "tiny", "TinyRacer-v0"),
        (["--env=TinyRacer-v0"], "tiny", "TinyRacer-v0"),
        (["--env", "CartPole-v1"], "small", "CartPole-v1"),
        (["--env", "CarRacing-v2"], "small", "CarRacing-v3"),  # the id that really runs
    ],
)
def test_the_environment_chooses_the_preset_and_it_is_printed(argv, preset, env, capsys):
    config = parse(*argv)
    assert config == replace(PRESETS[preset], env=env, preset=preset)
    assert f"preset: {preset} (choose with --preset tiny | small | paper)" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--preset", "paper"], ["--preset=paper"]])
def test_a_preset_asked_for_wins_and_says_its_name(argv, capsys):
    config = parse(*argv)
    assert (config.size, config.steps, config.env) == (300, 10_000, "CarRacing-v3")
    assert config.preset == "paper"
    assert "preset:" not in capsys.readouterr().out
    assert parse(*argv, "--env", "TinyCatch-v0").env == "TinyCatch-v0"


def test_options_go_on_top_of_the_preset_in_any_order():
    config = parse("--size", "7", "--env=TinyReacher-v0", "--seed=5", "--preset", "small", "--logdir", "here")
    assert (config.size, config.seed, config.logdir, config.action_repeat) == (7, 5, Path("here"), 4)
    assert config.env == "TinyReacher-v0"


def test_parsing_leaves_the_presets_as_they_are():
    before = json.dumps([vars(preset) for preset in PRESETS.values()], default=str)
    parse("--preset", "small", "--size", "9", "--env", "TinyCatch-v0")
    assert json.dumps([vars(preset) for preset in PRESETS.values()], default=str) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, paper"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--action-repeat", "0"], "--action-repeat must be 1 or more, got 0"),
        (["--resume", "lost"], "lost holds no run"),
        (["--resume", "latest"], "there is no run to resume in nowhere"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(argv, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        parse(*argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [["--env"], ["--preset"], ["--resume"], ["--resume="], ["--env="]])
def test_an_option_without_its_value_is_no_new_run(argv, capsys):
    with pytest.raises((SystemExit, UserError)):
        parse(*argv)


def test_unknown_options_end_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--sizes", "7")
    assert stop.value.code == 2


# ---- resuming ----


@pytest.fixture
def run(tmp_path) -> Path:
    config = parse("--preset", "small", "--size", "7", "--seed", "3", "--logdir", str(tmp_path / "20250101-000000-a"))
    return open_run(config, tmp_path)


@pytest.mark.parametrize("form", ["--resume {}", "--resume={}", "--resume latest"])
def test_resume_starts_from_the_runs_own_config(run, form):
    """Not from a preset's: size was given on the first command line, and is still there."""
    config = parse(*form.format(run).split(), runs=run.parent)
    assert (config.size, config.seed, config.env, config.action_repeat) == (7, 3, "CarRacing-v3", 4)
    assert config.preset == "small"
    assert config.resume == str(run)
    assert open_run(config, run.parent) == run


def test_what_is_given_beside_resume_goes_on_top(run):
    config = parse("--resume", str(run), "--steps", "100000", runs=run.parent)
    assert (config.steps, config.size) == (100_000, 7)
    open_run(config, run.parent)
    again = parse("--resume", str(run), runs=run.parent)  # and is remembered
    assert (again.steps, again.size) == (100_000, 7)


def test_resume_accepts_its_own_environment_and_no_other(run):
    assert parse("--resume", str(run), "--env", "CarRacing-v2").env == "CarRacing-v3"
    with pytest.raises(UserError, match="is a run on CarRacing-v3, not on TinyCatch-v0"):
        parse("--resume", str(run), "--env", "TinyCatch-v0")


@pytest.mark.parametrize("extra", [["--preset", "paper"], ["--logdir", "elsewhere"]])
def test_what_a_resume_cannot_do_is_refused(run, extra):
    """Rather than passed over: a run keeps its preset and its folder."""
    with pytest.raises((SystemExit, UserError)):
        parse("--resume", str(run), *extra)


# ---- the parts ----


def test_option_takes_the_last_one_given_in_either_form():
    assert option([], "env") is None
    assert option(["--env", "a"], "env") == "a"
    assert option(["--env=a=b"], "env") == "a=b"
    assert option(["--environment", "a", "--env-x=c"], "env") is None
    assert option(["--env=a", "--env", "b"], "env") == "b"
    assert option(["--env", "a", "--env=b"], "env") == "b"


def test_without_drops_an_option_and_its_value():
    assert without(["--env", "a", "--x", "1", "--env=b", "--envs", "c", "--preset", "d"], "env", "preset") == [
        *("--x", "1", "--envs", "c")
    ]


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == best
    for name in ("cuda:99", "no-such-device"):
        with pytest.raises(UserError, match=f"device '{name}' cannot be used") as error:
            pick_device(name)
        assert "\n" not in str(error.value)
