"""The command lines of paper 1 on TinyRacer, made as small as they go."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.agent import load_agent
from common.metrics import METRICS, read_metrics
from common.replay_buffer import ReplayBuffer
from paper1_world_models import agent, run, search, train
from paper1_world_models.config import PAPER, Config
from tests.helpers import comparable

MICRO = [
    *("--env", "TinyRacer-v0", "--steps", "1500", "--epochs", "1", "--rnn-passes", "2", "--vae-depth", "4"),
    *("--vae-batch", "256", "--rnn-batch", "8", "--hidden-size", "16", "--generations", "3", "--popsize", "4"),
    *("--episodes-per-candidate", "1", "--eval-every", "2", "--eval-episodes", "3", "--max-episode-steps", "20"),
    *("--workers", "1", "--device", "cpu"),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([*MICRO, "--logdir", str(folder)])
    return folder


def test_a_run_leaves_what_it_promises(trained):
    for name in ("config.json", "metrics.jsonl", "model.pt", "checkpoints/vae.pt", "checkpoints/controller.pt"):
        assert (trained / name).is_file(), name
    assert json.loads((trained / "config.json").read_text())["env"] == "TinyRacer-v0"
    assert list(trained.glob("events.out.tfevents*"))
    log = read_metrics(trained / "metrics.jsonl")
    logged = set().union(*log) - {"step", "frames", "wall_seconds"}
    assert logged <= METRICS.keys()
    wanted = "recon_loss recon_error kl latent_use nll_loss reward_error cont_accuracy heldout_nll"
    assert {f"world_model/{name}" for name in wanted.split()} <= logged
    assert {"policy/episode_return", "policy/eval_return", "efficiency/seconds_per_update"} <= logged
    assert [row["step"] for row in log] == sorted(row["step"] for row in log)
    assert [row["frames"] for row in log] == sorted(row["frames"] for row in log)


def test_two_runs_with_one_seed_are_the_same(trained, tmp_path):
    train.main([*MICRO, "--logdir", str(tmp_path / "again")])
    assert comparable(tmp_path / "again") == comparable(trained)


@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [(agent, "vae_train_step", 3), (agent, "rnn_train_step", 2), (search, "rollout", 3), (search, "rollout", 4)],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(trained, tmp_path, monkeypatch, module, name, calls):
    """Broken off in the middle of a stage, with a save after each update, it ends with the same numbers."""
    original, count = getattr(module, name), 0

    def broken(*args, **kwargs):
        nonlocal count
        count += 1
        if count > calls:
            raise RuntimeError("power cut")
        return original(*args, **kwargs)

    folder = tmp_path / "run"
    monkeypatch.setattr(run, "SAVE_SECONDS", 0)
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(RuntimeError, match="power cut"):
        train.main([*MICRO, "--logdir", str(folder)])
    monkeypatch.undo()
    train.main(["--resume", str(folder)])
    assert comparable(folder)[-3:] == comparable(trained)[-3:]
    ours, theirs = (torch.load(f / "model.pt", weights_only=True)["agent"] for f in (folder, trained))
    assert torch.equal(ours["controller"], theirs["controller"])
    assert all(torch.equal(ours["rnn"][key], theirs["rnn"][key]) for key in theirs["rnn"])


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    original, count = agent.rnn_train_step, 0

    def broken(*args, **kwargs):
        nonlocal count
        count += 1
        losses = original(*args, **kwargs)
        return losses | {"nll": torch.tensor(float("nan"))} if count > 2 else losses

    monkeypatch.setattr(run, "SAVE_SECONDS", 0)
    monkeypatch.setattr(agent, "rnn_train_step", broken)
    with pytest.raises(SystemExit) as stop:
        train.main([*MICRO, "--logdir", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "world_model/nll_loss is nan at update 3 of M" in error
    assert torch.load(tmp_path / "run" / "checkpoints" / "rnn.pt", weights_only=True)["updates"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CarRacin-v3"], "CarRacing-v3"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--steps", "-5"], "--steps must be 1 or more, got -5"),
        (["--epochs", "0"], "--epochs must be 1 or more, got 0"),
        (["--generations", "-1"], "--generations must be 1 or more, got -1"),
        (["--popsize", "1"], "--popsize must be 2 or more, got 1"),
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, paper, takecover"),
        (["--resume", "nowhere"], "nowhere holds no run"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(arguments, message, tmp_path, capsys):
    extra = [] if "--resume" in arguments else ["--logdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        train.main([*MICRO, *extra, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_logdir_that_holds_another_run_is_refused(trained, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stop:
        train.main([*MICRO, "--logdir", str(trained)])
    assert stop.value.code == 2
    assert f"--resume {trained}" in capsys.readouterr().err
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_learn_trains_both_models_on_a_replay(trained):
    """The protocol's learn(): one update of V, one of M, on windows that may span several episodes."""
    replay = ReplayBuffer(10_000, directory=trained / "replay")
    replay.restore()
    learner, _ = load_agent(trained / "model.pt", agent.WorldModelsAgent, Config, paper=PAPER)
    before = {name: p.clone() for name, p in [*learner.vae.named_parameters(), *learner.rnn.named_parameters()]}
    metrics = learner.learn(replay, step=100)
    assert metrics.keys() <= METRICS.keys()
    assert np.isfinite(list(metrics.values())).all()
    after = dict([*learner.vae.named_parameters(), *learner.rnn.named_parameters()])
    assert all(not torch.equal(before[name], after[name]) for name in before)
