"""The command line of paper 5 on a built-in environment, made as small as it goes."""

import dataclasses
import json
import shutil
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import torch._dynamo  # an optimiser imports it, which takes seconds: not within a test

from common.env_wrapper import spaces_of
from common.metrics import read_metrics
from common.plots import plot_curves  # noqa: F401  matplotlib is slow to import: not within a test
from paper5_iris import agent as agent_module
from paper5_iris import eval as evaluation
from paper5_iris import sample as sampling
from paper5_iris import train
from paper5_iris import visualize as visualisation
from paper5_iris.agent import IRISAgent
from paper5_iris.config import PRESETS, Config
from tests.helpers import comparable

MICRO = [
    *("--env", "TinyCatch-v0", "--preset", "paper", "--steps", "160", "--num-envs", "8", "--eval-every", "80"),
    *("--eval-episodes", "3", "--log-every", "40", "--device", "cpu", "--image-size", "4", "--levels", "2"),
    *("--attention", "2", "--channels", "8", "--codes", "8", "--embed", "4", "--z", "4", "--frames", "4"),
    *("--width", "8", "--layers", "1", "--heads", "2", "--actor", "cnn_lstm", "--actor-channels", "4", "4"),
    *("--actor-hidden", "8", "--actor-width", "8", "--actor-layers", "1", "--actor-heads", "2", "--burn-in", "2"),
    *("--horizon", "3", "--epoch-steps", "40", "--last-epochs", "1", "--perceptual", "none", "--tokenizer-batch", "4"),
    *("--world-model-batch", "3", "--actor-critic-batch", "2", "--tokenizer-updates", "2"),
    *("--world-model-updates", "2", "--actor-critic-updates", "1", "--tokenizer-after", "0"),
    *("--world-model-after", "1", "--actor-critic-after", "2"),
]


def play(folder: Path, *options: str) -> Path:
    train.main([*MICRO, *options, "--logdir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return play(tmp_path_factory.mktemp("runs") / "trained")


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/latest.pt", weights_only=True)


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def updates_of(epochs: int) -> int:
    """Two of the tokenizer in each, two of the world model from the second on, one of the policy from the third on."""
    return 2 * epochs + 2 * (epochs - 1) + (epochs - 2)


def logged(folder: Path) -> set[str]:
    return set().union(*read_metrics(folder / "metrics.jsonl")) - {"step", "frames", "wall_seconds"}


def assert_log_is_whole(folder: Path) -> None:
    """Steps rise: nothing is logged twice, nothing falls back."""
    log = read_metrics(folder / "metrics.jsonl")
    steps = [row["step"] for row in log]
    assert steps == sorted(steps)
    assert [row["frames"] for row in log] == steps, "one frame for each choice of an action"


def test_a_run_leaves_what_it_promises(trained):
    """The updates are those of four epochs and one more. The tokenizer is in the log after 40 steps, the world model
    after 80, the policy after 120."""
    for name in ("config.json", "metrics.jsonl", "model.pt", "checkpoints/latest.pt", "replay/replay.json"):
        assert (trained / name).is_file(), name
    assert (config_of(trained)["env"], config_of(trained)["actor"]) == ("TinyCatch-v0", "cnn_lstm")
    agent = saved(trained)["agent"]
    assert (agent["epoch"], agent["done"], agent["updates"]) == (5, 0, updates_of(5))
    assert {"policy/episode_return", "policy/episode_length", "policy/eval_return"} <= logged(trained)
    assert {"efficiency/parameters", "efficiency/seconds_per_tokenizer_update"} <= logged(trained)
    assert_log_is_whole(trained)
    log = read_metrics(trained / "metrics.jsonl")
    first = lambda name: next(row["frames"] for row in log if name in row)
    found = [first(name) for name in ("world_model/recon_loss", "world_model/token_loss", "policy/actor_loss")]
    assert found == [40, 80, 120]


def test_two_runs_with_one_seed_are_the_same(trained, tmp_path):
    assert str(comparable(play(tmp_path / "again"))) == str(comparable(trained))  # as text: of two nan, too


def test_a_finished_run_can_be_resumed_and_extended(trained, tmp_path):
    """There is nothing left to do; with more steps to play there is, and in the end it has had as many epochs as a run
    of that length from the beginning."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before, log = saved(folder)["agent"], comparable(folder)
    train.main(["--resume", str(folder)])
    after = saved(folder)["agent"]
    assert after["updates"] == before["updates"]
    for name in ("tokenizer", "model", "policy"):
        assert all(torch.equal(value, after[name][key]) for key, value in before[name].items())
    assert str(comparable(folder)) == str(log)
    train.main(["--resume", str(folder), "--steps", "240"])
    assert_log_is_whole(folder)
    assert read_metrics(folder / "metrics.jsonl")[-1]["frames"] >= 240
    agent = saved(folder)["agent"]
    assert (agent["epoch"], agent["done"], agent["updates"]) == (7, 0, updates_of(7))
    assert len(json.loads((folder / "sessions.json").read_text())) == 3


def test_evaluation_and_pictures_of_a_trained_agent(trained, monkeypatch, capsys):
    heat, dream = [], visualisation.dream
    monkeypatch.setattr(
        visualisation, "dream", lambda *args, **kw: heat.append(kw["temperature"]) or dream(*args, **kw)
    )
    checkpoint = ["--checkpoint", str(trained / "model.pt"), "--device", "cpu"]
    evaluation.evaluate.main(*evaluation.AGENT, [*checkpoint, "--episodes", "3", "--render"])
    assert "random" in capsys.readouterr().out
    assert len(json.loads((trained / "eval.json").read_text())["returns"]) == 3
    assert (trained / "videos" / "episode_2.mp4").exists()
    arguments = [*checkpoint, "--num-dreams", "2", "--horizon", "5"]
    visualisation.visualize.main(*evaluation.AGENT, arguments, visualisation.more)
    assert "temperatures.png" in capsys.readouterr().out
    assert heat == [0.5, 1.0, 1.5]
    names = "reconstructions latents imagination predictions learning_curve tokens temperatures"
    assert all((trained / "figures" / f"{name}.png").stat().st_size > 1000 for name in names.split())
    assert (trained / "videos" / "dream_0.gif").exists()


def test_sample_writes_trajectories_and_their_pictures(trained, tmp_path, monkeypatch, capsys):
    """Three dreams of seven steps, longer than the memory of four frames; the same with the same seed."""
    asked, real_episodes, imagine = [], sampling.real_episodes, sampling.imagine
    monkeypatch.setattr(
        sampling, "real_episodes", lambda *args, **kw: asked.append(args[3]) or real_episodes(*args, **kw)
    )
    monkeypatch.setattr(sampling, "imagine", lambda *args: asked.append(args[-1]) or imagine(*args))
    options = ["--checkpoint", str(trained / "model.pt"), "--count", "3", "--horizon", "7", "--device", "cpu"]
    for name, seed in (("one", "5"), ("two", "5"), ("other", "6")):
        sampling.main([*options, "--temperature", "0.7", "--seed", seed, "--out", str(tmp_path / name)])
    assert asked == [5, 0.7, 5, 0.7, 6, 0.7], "seed of the episodes that it starts in, and the world's temperature"
    assert "trajectories.npz" in capsys.readouterr().out
    one, two, other = (dict(np.load(tmp_path / name / "trajectories.npz")) for name in ("one", "two", "other"))
    shapes = {"tokens": (4,), "action": (), "logits": (3,), "value": (), "reward": (), "end": (), "image": (4, 4, 3)}
    assert one.keys() == shapes.keys()
    assert all(one[name].shape == (3, 7, *shape) for name, shape in shapes.items())
    assert all(np.array_equal(one[name], two[name]) for name in shapes)
    assert not np.array_equal(one["action"], other["action"])
    assert set(np.unique(one["reward"])) <= {-1, 0, 1}
    assert (one["image"].dtype, one["end"].dtype) == (np.uint8, bool)
    for i in range(3):
        assert len(imageio.mimread(tmp_path / "one" / f"trajectory_{i}.gif")) == 7


def test_the_transformer_policy_lives_through_the_same_commands(tmp_path, capsys):
    folder = play(tmp_path / "run", "--actor", "transformer")
    assert config_of(folder)["actor"] == "transformer"
    assert {"world_model/recon_loss", "world_model/token_loss", "policy/actor_loss"} <= logged(folder)
    assert saved(folder)["agent"]["updates"] == updates_of(5)
    checkpoint = ["--checkpoint", str(folder / "model.pt"), "--device", "cpu"]
    evaluation.evaluate.main(*evaluation.AGENT, [*checkpoint, "--episodes", "1"])
    sampling.main([*checkpoint, "--count", "2", "--horizon", "5", "--out", str(folder)])
    assert "trajectory_1.gif" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ("--recon", "absolute", "--beta", "0.25", "--temperature", "0.5", "--epsilon", "0.1", "--dropout", "0.1"),
        ("--actor-critic-lr", "0.01", "--entropy-scale", "0.0", "--prefill", "20", "--tokenizer-until", "5"),
    ],
)
def test_switches_are_options_of_the_command_line(options, tmp_path):
    short = ("--steps", "32", "--epoch-steps", "30", "--world-model-after", "0", "--actor-critic-after", "0")
    folder = play(tmp_path / "run", *short, "--last-epochs", "0", "--overfit-batch", *options)
    number = lambda value: float(value) if value[0].isdigit() else value
    wanted = {
        name[2:].replace("-", "_"): number(value) for name, value in zip(options[::2], options[1::2], strict=True)
    }
    config = config_of(folder)
    assert {name: config[name] for name in wanted} == wanted
    assert config["overfit_batch"] is True
    assert {"world_model/recon_loss", "world_model/token_loss", "policy/actor_loss"} <= logged(folder)


# ---- presets ----


def test_paper_preset_is_the_papers():
    """Fact by fact."""
    assert list(PRESETS) == ["tiny", "small", "paper"]
    paper = PRESETS["paper"]
    assert paper == Config()
    assert (paper.env, paper.steps, paper.repeat) == ("atari_breakout", 400_000, 4)
    assert (paper.num_envs, paper.image_size) == (1, 64)
    assert (paper.prefill, paper.replay_capacity >= 100_000, paper.eval_episodes) == (0, True, 16)
    # the tokenizer
    assert (paper.codes, paper.embed, paper.channels, paper.levels, paper.z) == (512, 512, 64, 5, 512)
    assert (paper.attention, paper.beta, paper.recon, paper.perceptual) == ((8, 16), 1.0, "absolute", "lpips")
    # the world model
    assert (paper.frames, paper.width, paper.layers, paper.heads, paper.dropout) == (20, 256, 10, 4, 0.1)
    # the policy
    assert (paper.actor, paper.actor_channels, paper.actor_hidden) == ("cnn_lstm", (32, 32, 64, 64), 512)
    assert (paper.burn_in, paper.horizon, paper.discount, paper.lam, paper.entropy_scale) == (20, 20, 0.995, 0.95, 1e-3)
    assert (paper.epsilon, paper.temperature, paper.eval_temperature) == (0.01, 1.0, 0.5)
    # epochs
    assert (paper.epoch_steps, paper.last_epochs) == (200, 100)
    for name, after, batch in (("tokenizer", 5, 256), ("world_model", 25, 64), ("actor_critic", 50, 64)):
        found = [getattr(paper, f"{name}_{what}") for what in ("updates", "after", "batch", "lr")]
        assert found == [200, after, batch, 1e-4], name
    assert (paper.tokenizer_until, paper.weight_decay, paper.clip) == (None, 0.01, 10.0)


def test_small_presets_are_the_same_algorithm():
    """Sizes, budgets and learning rates apart. Without weights of VGG there is no perceptual loss, and of the tiny
    preset's small pictures the squared error is taken."""
    paper, tiny, small = Config(), PRESETS["tiny"], PRESETS["small"]
    for name, preset in (("tiny", tiny), ("small", small)):
        for option in ("lam", "temperature", "eval_temperature", "sticky", "life_loss", "prefill"):
            assert getattr(preset, option) == getattr(paper, option), f"{option} of {name}"
        assert preset.perceptual == "none"
        assert preset.tokenizer_after < preset.world_model_after < preset.actor_critic_after
        assert preset.steps // preset.repeat // preset.epoch_steps > preset.actor_critic_after, "the policy learns"
    assert (tiny.env, tiny.recon, small.recon) == ("TinyCatch-v0", "squared", "absolute")
    assert (small.actor, small.image_size, small.epoch_steps) == ("cnn_lstm", 64, 200)
    assert small.horizon <= small.frames, "a dream has room in the memory"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_agents(name):
    """On the environment that they name, or one like it. 16 tokens are a frame."""
    preset = dataclasses.replace(PRESETS[name], env="TinyCatch-v0", perceptual="none")
    with torch.device("meta"):
        agent = IRISAgent(preset, *spaces_of(preset.env, **preset.env_options()), "meta")
    assert agent.tokenizer.tokens == 16


def test_atari_is_played_otherwise_in_an_evaluation():
    """A lost life ends no episode, there is one no-op, and half an hour instead of 20,000 frames. Nothing sticks, and
    rewards are as the game gives them."""
    paper = PRESETS["paper"]
    training, tested = paper.env_options(), paper.eval_options()
    own = {"sticky": 0.0, "life_loss": True, "time_limit": 20_000}
    assert training == {"image_size": 64, "action_repeat": None, "obs": None} | own
    assert tested == training | {"life_loss": False, "time_limit": 108_000, "noop_max": 1}
    assert not dataclasses.replace(paper, life_loss=False).env_options()["life_loss"]
    assert dataclasses.replace(paper, sticky=0.25).eval_options()["sticky"] == 0.25


@pytest.mark.parametrize("env", ["TinyCatch-v0", "crafter_reward", "CartPole-v1"])
def test_other_environments_are_not_told_what_only_atari_knows(env):
    config = Config(env=env)
    for options in (config.env_options(), config.eval_options()):
        assert options.keys() == {"image_size", "action_repeat", "obs"}
    assert config.repeat == 1
    assert dataclasses.replace(config, action_repeat=3).repeat == 3


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "TinyReacher-v0"], "IRIS chooses among actions, and those of TinyReacher-v0 are continuous"),
        (["--env", "CartPole-v1", "--obs", "vector"], "IRIS needs pictures, and CartPole-v1 shows none"),
        (["--perceptual", "lpips"], "--lpips-weights FILE; or --perceptual none"),
        (["--perceptual", "lpips", "--lpips-weights", "nowhere.pt"], "cannot read the perceptual network from nowhere"),
        (["--perceptual", "lpips", "--lpips-weights", __file__], "cannot read the perceptual network from "),
        (["--image-size", "18", "--levels", "3"], "--image-size must be a multiple of 4, not 18"),
        (["--actor-channels", "4", "4", "4", "--image-size", "20"], "--image-size must be a multiple of 8, not 20"),
        (["--width", "9"], "--width 9 cannot be cut into --heads 2"),
        (["--channels", "7"], "--channels must be even (groups of two are normalised), not 7"),
        (["--dropout", "1.5"], "--dropout must be at least 0 and below 1, not 1.5"),
        (["--eval-temperature", "0"], "--temperature and --eval-temperature must be positive"),
        (["--actor-width", "9"], "--actor-width 9 cannot be cut into --actor-heads 2"),
        (["--actor", "lstm"], "invalid choice 'lstm'"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--prefill", "300"], "--steps 160 trains nothing: the first 300 (--prefill) are random"),
        (["--horizon", "1"], "--horizon must be 2 or more, got 1"),
        (["--frames", "1"], "--frames must be 2 or more, got 1"),
        (["--tokenizer-after", "-1"], "--tokenizer-after must be 0 or more, got -1"),
        (["--actor-critic-updates", "0"], "--actor-critic-updates must be 1 or more, got 0"),
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, paper"),
        (["--resume", "nowhere"], "nowhere holds no run"),
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
    assert not (tmp_path / "run").exists(), "there is a run folder already"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count, --horizon and --temperature must be positive"),
        (["--temperature", "0"], "--count, --horizon and --temperature must be positive"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_sample_ends_with_one_line_where_it_cannot(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        sampling.main(["--out", str(tmp_path), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_open_exercise_ends_a_run_with_one_line(tmp_path, monkeypatch, capsys):
    def stub(*args):
        raise NotImplementedError("exercise 5.5: how many words are in use")

    monkeypatch.setattr(agent_module, "codebook_usage", stub)
    with pytest.raises(SystemExit) as stop:
        play(tmp_path / "run")
    assert stop.value.code == 2
    assert "exercise 5.5: how many words are in use is still to do: " in capsys.readouterr().err
