"""The command line of paper 3 on TinyCatch and TinyReacher, made as small as it goes."""

import json
from pathlib import Path

import pytest
import torch

from common.metrics import METRICS, read_metrics
from common.video import write_video  # noqa: F401  imageio is slow to import: not within a test
from paper3_dreamerv2 import eval as evaluation
from paper3_dreamerv2 import train
from paper3_dreamerv2 import visualize as visualisation
from paper3_dreamerv2.config import PRESETS, Config
from tests.helpers import comparable

MICRO = [
    *("--env", "TinyCatch-v0", "--steps", "240", "--prefill", "120", "--num-envs", "4", "--eval-every", "200"),
    *("--eval-episodes", "3", "--log-every", "60", "--depth", "2", "--deter", "8", "--stoch", "3", "--classes", "4"),
    *("--hidden", "8", "--units", "8", "--batch", "4", "--length", "6", "--pretrain", "2", "--train-every", "40"),
    *("--actor-delay", "1", "--horizon", "4", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([*MICRO, "--logdir", str(folder)])
    return folder


def test_a_run_leaves_what_it_promises(trained):
    for name in ("config.json", "metrics.jsonl", "model.pt", "checkpoints/latest.pt", "replay/replay.json"):
        assert (trained / name).is_file(), name
    assert json.loads((trained / "config.json").read_text())["env"] == "TinyCatch-v0"
    log = read_metrics(trained / "metrics.jsonl")
    logged = set().union(*log) - {"step", "frames", "wall_seconds"}
    assert logged <= METRICS.keys()
    assert {"world_model/recon_loss", "world_model/kl", "policy/actor_loss", "policy/eval_return"} <= logged
    assert {"world_model/cont_loss", "world_model/latent_perplexity", "policy/entropy"} <= logged
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
    saved = torch.load(folder / "checkpoints/latest.pt", weights_only=True)["agent"]
    assert saved["updates"] == 2 + (320 - 120) // 40
    assert saved["slow"]["updates"] == saved["updates"] - 1, "of the first update the actor was delayed"


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


def test_continuous_actions_and_gaussian_latents(tmp_path):
    """TinyReacher: the actor learns through the dynamics, the episodes never end early."""
    folder = tmp_path / "run"
    options = ["--env", "TinyReacher-v0", "--latent", "gaussian", "--use-continue", "False", "--logdir", str(folder)]
    train.main([*MICRO, *options])
    logged = set().union(*read_metrics(folder / "metrics.jsonl"))
    assert {"world_model/kl", "world_model/latent_use", "policy/entropy"} <= logged
    assert not {"world_model/cont_loss", "world_model/latent_perplexity"} & logged


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


def test_episodes_shorter_than_a_chunk_are_learned_from(tmp_path):
    """TinyCatch's have 12 rows, chunks of 50 are asked for: they are as long as there are rows."""
    folder = tmp_path / "run"
    train.main([*MICRO, "--length", "50", "--logdir", str(folder)])
    assert torch.load(folder / "checkpoints/latest.pt", weights_only=True)["agent"]["updates"] == 2 + (240 - 120) // 40


# ---- presets ----


def test_presets_have_their_names():
    assert list(PRESETS) == ["tiny", "small", "paper", "paper_atari", "repo_atari", "repo_dmc"]
    assert PRESETS["paper"] == PRESETS["paper_atari"] == Config()


@pytest.mark.parametrize("name", ["paper", "repo_atari"])
def test_atari_presets_are_the_sources_settings(name):
    """Fact by fact. What the paper's table and the code have in common."""
    preset = PRESETS[name]
    assert (preset.env, preset.steps, preset.repeat, preset.num_envs) == ("atari_pong", 200_000_000, 4, 1)
    assert (preset.image_size, preset.grayscale, preset.prefill, preset.replay_capacity) == (64, True, 200_000, 2e6)
    assert (preset.latent, preset.stoch, preset.classes) == ("discrete", 32, 32)
    assert (preset.deter, preset.hidden, preset.depth, preset.units, preset.layers) == (600, 600, 48, 400, 4)
    assert (preset.kl_scale, preset.kl_balance, preset.free_nats, preset.free_before_mean) == (0.1, 0.8, 0, False)
    assert (preset.predicts_continue, preset.continue_scale, preset.reward_target) == (True, 5.0, "tanh")
    assert (preset.horizon, preset.lam, preset.length, preset.slow_every) == (15, 0.95, 50, 100)
    assert (preset.model_lr, preset.actor_lr, preset.value_lr) == (2e-4, 4e-5, 1e-4)
    assert (preset.adam_eps, preset.clip, preset.weight_decay) == (1e-5, 100, 1e-6)
    assert (preset.entropy_scale, preset.entropy_scale_end, preset.actor_mix_end) == (1e-3, None, None)
    assert (preset.prioritize_ends, preset.advantage, preset.actor_delay) == (True, "next", 0)
    assert preset.eval_every == 1_000_000


@pytest.mark.parametrize(
    ("name", "setting"), [("paper", (True, 0.995, 50, 4, 0)), ("repo_atari", (False, 0.999, 16, 16, 1))]
)
def test_atari_presets_differ_where_the_sources_do(name, setting):
    """All 18 actions or the game's own; discount; batch; agent steps for one update; updates before the first."""
    preset = PRESETS[name]
    found = (preset.full_actions, preset.discount, preset.batch, preset.train_every, preset.pretrain)
    assert found == setting
    options = preset.env_options()
    assert (options["grayscale"], options["full_actions"]) == (True, setting[0])
    assert "life_loss" not in options, "an episode is a whole game"


def test_the_dmc_preset_is_the_codes_setting():
    preset = PRESETS["repo_dmc"]
    assert (preset.env, preset.steps, preset.repeat, preset.prefill) == ("dmc_walker_walk", 2_000_000, 2, 2_000)
    assert (preset.deter, preset.hidden, preset.stoch, preset.classes) == (200, 200, 32, 32)
    assert (preset.depth, preset.units, preset.layers) == (48, 400, 4)
    assert (preset.kl_scale, preset.kl_balance, preset.free_nats, preset.free_before_mean) == (1.0, 0.8, 1.0, False)
    assert (preset.predicts_continue, preset.reward_target) == (False, "none")
    assert (preset.actor_gradient, preset.entropy_scale) == ("dynamics", 1e-4)
    assert (preset.discount, preset.lam, preset.horizon) == (0.99, 0.95, 15)
    assert (preset.batch, preset.length, preset.train_every, preset.pretrain) == (16, 50, 5, 100)
    assert (preset.model_lr, preset.actor_lr, preset.value_lr) == (3e-4, 8e-5, 8e-5)
    assert (preset.adam_eps, preset.clip, preset.weight_decay, preset.slow_every) == (1e-5, 100, 1e-6, 100)
    assert not preset.prioritize_ends
    assert "grayscale" not in preset.env_options(), "dm_control is seen in colour, and its wrapper knows no such option"


@pytest.mark.parametrize(
    ("env", "repeat", "reward", "ends"),
    [
        ("atari_breakout", 4, "tanh", True),
        ("ALE/Pong-v5", 4, "tanh", True),
        ("dmc_cartpole_balance", 2, "none", False),
        ("TinyCatch-v0", 1, "none", True),
        ("CarRacing-v3", 1, "none", True),
    ],
)
def test_environment_decides_what_the_config_leaves_open(env, repeat, reward, ends):
    config = Config(env=env)
    assert (config.repeat, config.reward_target, config.predicts_continue) == (repeat, reward, ends)
    told = Config(env=env, action_repeat=7, reward_transform="symlog", use_continue=not ends)
    assert (told.repeat, told.reward_target, told.predicts_continue) == (7, "symlog", not ends)


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "TinyCach-v0"], "TinyCatch-v0"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--steps", "100"], "--steps 100 trains nothing: the first 120 (--prefill) are random"),
        (["--replay-capacity", "4"], "the replay holds no episode: set --prefill or --replay-capacity higher"),
        (["--horizon", "1"], "--horizon must be 2 or more, got 1"),
        (["--length", "1"], "--length must be 2 or more, got 1"),
        (["--slow-every", "0"], "--slow-every must be 1 or more, got 0"),
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, paper, paper_atari, repo_atari, repo_"),
        (["--resume", "nowhere"], "nowhere holds no run"),
        (["--env", "CarRacing-v3", "--obs", "vector"], "CarRacing-v3 does not observe 'vector', only image"),
        (["--latent", "categorical"], "invalid choice 'categorical'"),
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
