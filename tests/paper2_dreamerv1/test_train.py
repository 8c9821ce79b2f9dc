"""The command line of paper 2 on TinyReacher and TinyCatch, made as small as it goes."""

import json
from pathlib import Path

import pytest
import torch

from common.metrics import METRICS, read_metrics
from common.video import write_video  # noqa: F401  imageio is slow to import: not within a test
from paper2_dreamerv1 import eval as evaluation
from paper2_dreamerv1 import train
from paper2_dreamerv1 import visualize as visualisation
from paper2_dreamerv1.config import PRESETS
from tests.helpers import comparable

MICRO = [
    *("--env", "TinyReacher-v0", "--steps", "240", "--prefill", "120", "--num-envs", "4", "--eval-every", "200"),
    *("--eval-episodes", "3", "--log-every", "60", "--depth", "2", "--deter", "8", "--stoch", "4", "--hidden", "8"),
    *("--units", "8", "--batch", "4", "--length", "6", "--pretrain", "2", "--train-every", "40", "--actor-delay", "1"),
    *("--horizon", "4", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([*MICRO, "--logdir", str(folder)])
    return folder


def test_a_run_leaves_what_it_promises(trained):
    for name in ("config.json", "metrics.jsonl", "model.pt", "checkpoints/latest.pt", "replay/replay.json"):
        assert (trained / name).is_file(), name
    assert json.loads((trained / "config.json").read_text())["env"] == "TinyReacher-v0"
    log = read_metrics(trained / "metrics.jsonl")
    logged = set().union(*log) - {"step", "frames", "wall_seconds"}
    assert logged <= METRICS.keys()
    assert {"world_model/recon_loss", "world_model/kl", "policy/actor_loss", "policy/eval_return"} <= logged
    assert {"policy/episode_return", "efficiency/seconds_per_update", "efficiency/parameters"} <= logged


def test_two_runs_with_one_seed_are_the_same(trained, tmp_path):
    train.main([*MICRO, "--logdir", str(tmp_path / "again")])
    assert comparable(tmp_path / "again") == comparable(trained)


def test_a_finished_run_can_be_extended(trained, tmp_path):
    folder = tmp_path / "run"
    train.main([*MICRO, "--logdir", str(folder)])
    train.main(["--resume", str(folder), "--steps", "320"])
    log = read_metrics(folder / "metrics.jsonl")
    assert log[-1]["frames"] >= 320
    assert [row["step"] for row in log] == sorted(row["step"] for row in log)
    assert torch.load(folder / "checkpoints/latest.pt", weights_only=True)["agent"]["updates"] == 2 + (320 - 120) // 40


def test_evaluation_and_pictures_of_a_trained_agent(trained, capsys):
    evaluation.evaluate.main(*evaluation.AGENT, ["--checkpoint", str(trained / "model.pt"), "--episodes", "3"])
    assert "random" in capsys.readouterr().out
    result = json.loads((trained / "eval.json").read_text())
    assert len(result["returns"]) == 3
    arguments = ["--checkpoint", str(trained / "model.pt"), "--num-dreams", "2", "--horizon", "5"]
    visualisation.visualize.main(*evaluation.AGENT, arguments)
    for name in ("reconstructions", "latents", "imagination", "predictions", "learning_curve"):
        assert (trained / "figures" / f"{name}.png").stat().st_size > 1000
    assert (trained / "videos" / "dream_0.gif").exists()


def test_discrete_actions_and_ends_of_episodes(tmp_path):
    """TinyCatch: one-hot actions, and a continue head that sees real ends."""
    options = [*MICRO, "--env", "TinyCatch-v0", "--length", "16", "--logdir", str(tmp_path / "run")]  # of 12 rows
    train.main(options)
    logged = set().union(*read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert {"world_model/cont_loss", "world_model/cont_accuracy"} <= logged


def test_vectors_alone_can_be_observed(tmp_path, capsys):
    """No decoder for images; evaluation works, and visualize says what there is to draw."""
    folder = tmp_path / "run"
    options = [*MICRO, "--env", "CartPole-v1", "--obs", "vector", "--logdir", str(folder)]
    train.main(options)
    logged = set().union(*read_metrics(folder / "metrics.jsonl"))
    assert "world_model/vector_loss" in logged
    assert "world_model/recon_loss" not in logged
    checkpoint = ["--checkpoint", str(folder / "model.pt")]
    visualisation.visualize.main(*evaluation.AGENT, [*checkpoint, "--num-dreams", "2"])
    assert (folder / "figures" / "learning_curve.png").exists()
    assert "observes no images" in capsys.readouterr().out


def test_the_paper_preset_is_the_papers_setting():
    """Fact by fact, from the official code."""
    paper = PRESETS["paper"]
    assert (paper.deter, paper.stoch, paper.hidden, paper.depth, paper.units) == (200, 30, 200, 32, 400)
    assert (paper.batch, paper.length, paper.horizon, paper.discount, paper.lam) == (50, 50, 15, 0.99, 0.95)
    assert (paper.model_lr, paper.actor_lr, paper.value_lr, paper.adam_eps, paper.clip) == (6e-4, 8e-5, 8e-5, 1e-7, 100)
    assert (paper.free_nats, paper.kl_scale, paper.kl_balance, paper.free_before_mean) == (3, 1, None, False)
    assert (paper.prefill, paper.train_every, paper.train_steps, paper.pretrain) == (5000, 1000, 100, 100)
    assert (paper.exploration, paper.expl_noise, paper.actor_delay, paper.num_envs) == ("sample", 0.3, 0, 1)
    assert not paper.predicts_continue, "dm_control never ends early"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "TinyReachr-v0"], "TinyReacher-v0"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--steps", "100"], "--steps 100 trains nothing: the first 120 (--prefill) are random"),
        (["--replay-capacity", "40"], "no episode has the 6 rows of a chunk, the longest in the replay has 0"),
        (["--horizon", "1"], "--horizon must be 2 or more, got 1"),
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, paper, paper_discrete"),
        (["--resume", "nowhere"], "nowhere holds no run"),
        (["--env", "CarRacing-v3", "--obs", "vector"], "CarRacing-v3 does not observe 'vector', only image"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(arguments, message, tmp_path, capsys):
    extra = [] if "--resume" in arguments else ["--logdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        train.main([*MICRO, *extra, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
