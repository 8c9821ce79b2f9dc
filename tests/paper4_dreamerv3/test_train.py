"""The command line of paper 4 on the built-in environments and CartPole, made as small as it goes."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from common.agent import load_agent
from common.config import parse_config
from common.metrics import METRICS, Logger, read_metrics
from common.replay_buffer import ReplayBuffer
from common.runner import ENVIRONMENT
from common.seeding import seed_of
from common.tiny_envs import TinyCatchVectorEnv
from common.video import write_video  # noqa: F401  imageio is slow to import: not within a test
from paper4_dreamerv3 import agent as agent_module
from paper4_dreamerv3 import domains, generalize, train
from paper4_dreamerv3 import eval as evaluation
from paper4_dreamerv3 import visualize as visualisation
from paper4_dreamerv3.ablate import ABLATIONS
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import PRESETS, Config
from paper4_dreamerv3.replay import updates_due
from tests.helpers import comparable, expect_close

MICRO = [
    *("--env", "TinyCatch-v0", "--steps", "160", "--num-envs", "4", "--eval-every", "100", "--eval-episodes", "3"),
    *("--log-every", "40", "--deter", "16", "--hidden", "8", "--stoch", "3", "--classes", "4", "--depth", "2"),
    *("--units", "8", "--bins", "21", "--batch", "4", "--length", "6", "--horizon", "4", "--imag-last", "3"),
    *("--replay-ratio", "2", "--warmup", "2", "--device", "cpu"),
]
FIRST = 12 * 4  # rows when there are as many windows of 7 as a batch has rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train.main([*MICRO, "--logdir", str(folder)])
    return folder


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/latest.pt", weights_only=True)


def rows_of(folder: Path) -> int:
    """Of all environments together."""
    replay = json.loads((folder / "replay" / "replay.json").read_text())
    return replay["end"] * replay["streams"]


def logged(folder: Path) -> set[str]:
    return set().union(*read_metrics(folder / "metrics.jsonl")) - {"step", "frames", "wall_seconds"}


def test_a_run_leaves_what_it_promises(trained):
    for name in ("config.json", "metrics.jsonl", "model.pt", "checkpoints/latest.pt", "replay/replay.json"):
        assert (trained / name).is_file(), name
    assert json.loads((trained / "config.json").read_text())["env"] == "TinyCatch-v0"
    names = logged(trained)
    assert names <= METRICS.keys()
    assert {"world_model/recon_loss", "world_model/kl", "policy/actor_loss", "policy/eval_return"} <= names
    assert {"world_model/dyn_loss", "policy/replay_value_loss", "policy/return_scale", "policy/entropy"} <= names
    assert {"policy/episode_return", "efficiency/seconds_per_update", "efficiency/parameters"} <= names
    assert saved(trained)["agent"]["updates"] == updates_due(rows_of(trained), FIRST, 2.0, 24) > 5
    replay = json.loads((trained / "replay" / "replay.json").read_text())
    assert {"deter", "stoch"} <= replay["spec"].keys(), "latents lie beside the rows"


def test_two_runs_with_one_seed_are_the_same(trained, tmp_path):
    train.main([*MICRO, "--logdir", str(tmp_path / "again")])
    assert str(comparable(tmp_path / "again")) == str(comparable(trained))  # as text: of two nan, too


def test_a_finished_run_can_be_extended(trained, tmp_path):
    """The update count goes on with the rows, those of a new beginning too; the queue goes on where it was."""
    folder = tmp_path / "run"
    train.main([*MICRO, "--logdir", str(folder)])
    taken = saved(folder)["agent"]["taken"]
    train.main(["--resume", str(folder), "--steps", "240"])
    log = read_metrics(folder / "metrics.jsonl")
    assert log[-1]["frames"] >= 240
    assert [row["step"] for row in log] == sorted(row["step"] for row in log)
    assert saved(folder)["agent"]["updates"] == updates_due(rows_of(folder), FIRST, 2.0, 24)
    assert saved(folder)["agent"]["taken"] > taken


def test_evaluation_and_pictures_of_a_trained_agent(trained, capsys):
    evaluation.evaluate.main(*evaluation.AGENT, ["--checkpoint", str(trained / "model.pt"), "--episodes", "3"])
    assert "random" in capsys.readouterr().out
    result = json.loads((trained / "eval.json").read_text())
    assert len(result["returns"]) == 3
    arguments = ["--checkpoint", str(trained / "model.pt"), "--num-dreams", "2", "--horizon", "5"]
    visualisation.visualize.main(*evaluation.AGENT, arguments)
    for name in ("reconstructions", "latents", "imagination", "predictions", "learning_curve"):
        assert (trained / "figures" / f"{name}.png").stat().st_size > 1000
    (drawn,) = visualisation.more(*episodes_of(trained), trained / "figures")
    assert drawn.stat().st_size > 1000
    assert (trained / "videos" / "dream_0.gif").exists()


def inverted(monkeypatch):
    """The continue head, taken the wrong way round."""
    right = DreamerV3Agent.cont_probability
    monkeypatch.setattr(DreamerV3Agent, "cont_probability", lambda self, feat: 1 - right(self, feat))


def promising(monkeypatch):
    """Returns with 1000 added to each."""
    right = agent_module.lambda_returns
    monkeypatch.setattr(agent_module, "lambda_returns", lambda *args: 1000 + right(*args))


def exploding(monkeypatch):
    """After 20 updates the losses are a million times larger."""
    calls, right = [], agent_module.world_model_losses

    def losses(*args):
        calls.append(args)
        return {name: loss * (1e6 if len(calls) > 20 else 1) for name, loss in right(*args).items()}

    monkeypatch.setattr(agent_module, "world_model_losses", losses)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("warning", "breaks", "options"),
    [
        ("posterior collapse", None, ("--rep-scale", "1000", "--free-nats", "0", "--lr", "1e-3")),
        ("exploding gradient", exploding, ()),
        ("continue head inverted", inverted, ("--lr", "1e-2")),
        ("values too high", promising, ("--lr", "1e-2")),
    ],
)
def test_a_broken_run_is_told(warning, breaks, options, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(agent_module, "DIAGNOSE_EVERY", 1)
    if breaks:
        breaks(monkeypatch)
    run = ("--env", "CartPole-v1", "--steps", "1000", "--eval-every", "1000", "--logdir", str(tmp_path / "run"))
    train.main([*MICRO, *run, *options])
    assert f"warning: {warning}: " in capsys.readouterr().err


def episodes_of(folder: Path, count: int = 3) -> tuple:
    """A trained agent, and episodes that it plays."""
    agent, config = load_agent(folder / "model.pt", *evaluation.AGENT[:2], paper=evaluation.AGENT[2])
    return agent, visualisation.visualize.real_episodes(agent, config, count, 0)


def test_entropies_of_the_latents(trained):
    """Each between what 1% of chance leaves and ln 4; together those of the log's metrics. A variable whose prior
    knows nothing is at ln 4."""
    agent, episodes = episodes_of(trained)
    rows = {key: np.stack([each[key][:8] for each in episodes]) for key in episodes[0]}
    posterior, prior, likeliest = visualisation.latent_entropies(agent, rows)
    assert posterior.shape == prior.shape == likeliest.shape == (3,)
    floor = -(0.9925 * np.log(0.9925) + 3 * 0.0025 * np.log(0.0025))
    for entropy in (posterior, prior):
        assert ((entropy >= floor - 1e-5) & (entropy <= np.log(4) + 1e-5)).all()
    assert ((likeliest >= 0) & (likeliest <= np.log(4) + 1e-5)).all()
    with torch.no_grad():
        for weight in agent.model.rssm.prior_net[-1].parameters():
            weight.zero_()
    expect_close(visualisation.latent_entropies(agent, rows)[1], np.full(3, np.log(4)), what="a prior of nothing")


@pytest.fixture
def short_episodes(monkeypatch):
    """TinyCatch's limit is never reached: as a ball falls for 11 steps, more levels are sure to have been seen."""
    monkeypatch.setattr(TinyCatchVectorEnv, "max_episode_steps", 11)


def test_levels_of_training_come_again(trained, short_episodes, tmp_path, capsys):
    """Every episode on a seen level begins with the frame that an episode of the replay begins with, in their order;
    new ones do not."""
    agent, config = load_agent(trained / "model.pt", *evaluation.AGENT[:2], paper=evaluation.AGENT[2])
    seed = seed_of(config.seed, ENVIRONMENT, 0)
    replay = ReplayBuffer(config.replay_capacity, directory=trained / "replay")
    replay.restore()
    begun = replay.episodes()
    starts = [(stream, t) for stream in range(4) for t in sorted(begun["start"][begun["stream"] == stream])[:2]]
    expected = replay.windows(np.array(starts), 1)["image"][:, 0]
    for where, same in ((seed, True), (7, False)):
        played = generalize.play(agent, config, where, 8)
        assert all(rows["is_first"][0] and rows["is_last"][-1] and rows["is_first"].sum() == 1 for rows in played)
        assert np.array_equal(np.stack([rows["image"][0] for rows in played]), expected) is same
    figure = tmp_path / "figure.png"
    generalize.main([str(trained), "--episodes", "4", "--context", "3", "--horizon", "15", "--figure", str(figure)])
    printed = capsys.readouterr().out
    assert "unseen levels: return" in printed
    assert "after 9 steps" in printed, "episodes have 12 rows"
    result = json.loads(figure.with_suffix(".json").read_text())
    for kind in ("seen", "unseen"):
        assert -1 <= result[kind]["return"]["mean"] <= 1
        assert len(result[kind]["error"]["mean"]) == 9
        assert np.isfinite(result[kind]["error"]["mean"]).all()
    assert figure.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one run folder at least"),
        (["RUN", "--episodes", "400"], "is sure to have seen"),
        (["RUN", "--episodes", "4", "--context", "12"], "take a smaller one"),
        (["RUN", "--horizon", "0"], "must be positive"),
    ],
)
def test_levels_that_cannot_be_compared_end_with_one_line(arguments, message, trained, short_episodes, capsys):
    with pytest.raises(SystemExit) as stop:
        generalize.main([str(trained) if word == "RUN" else word for word in arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_what_follows_an_episode_is_no_error():
    rows = {"reward": np.arange(3.0), "is_first": np.array([True, False, False])}
    longer = generalize.padded(rows, 5)
    assert longer["reward"].tolist() == [0, 1, 2, 2, 2]
    assert longer["is_first"].tolist() == [True, False, False, True, True]
    assert generalize.padded(rows, 2)["reward"].tolist() == [0, 1]


def test_one_table_for_all_domains(tmp_path, monkeypatch, capsys):
    """Of what each run logged last: scores between random and optimal, one panel and one line for each environment."""

    def train_all(script, runs, jobs):
        assert script.name == "train.py"
        for place, (folder, words) in enumerate(runs.items()):
            config = parse_config(PRESETS, tmp_path, words)
            assert words == ["--preset", "tiny", "--env", config.env, "--seed", str(config.seed), "--steps", "500"]
            with Logger(folder, tensorboard=False) as logger:
                logger.log({"policy/eval_return": 0.0}, step=1, frames=100)
                logger.log({"policy/eval_return": float(place)}, step=2, frames=500)

    monkeypatch.setattr(domains, "train_all", train_all)
    options = ["--seeds", "0", "3", "--steps", "500", "--logdir", str(tmp_path)]
    domains.main(["--domains", "TinyCatch-v0", "CartPole-v1", *options])
    assert "CartPole-v1" in capsys.readouterr().out
    result = json.loads((tmp_path / "domains.json").read_text())
    assert list(result) == ["TinyCatch-v0", "CartPole-v1"]
    assert result["TinyCatch-v0"]["return"]["values"] == [0, 1]
    assert result["TinyCatch-v0"]["score"]["values"] == pytest.approx([0.42 / 1.42, 1])
    assert result["CartPole-v1"]["optimal"] == 500
    assert (tmp_path / "domains.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        domains.main(["--domains", "TinyCat-v0"])
    assert "TinyCat-v0 is none of the domains: TinyCatch-v0" in capsys.readouterr().err


def test_continuous_actions_are_learned_with_the_same_options(tmp_path):
    folder = tmp_path / "run"
    train.main([*MICRO, "--env", "TinyReacher-v0", "--logdir", str(folder)])
    assert {"policy/actor_loss", "policy/entropy", "world_model/recon_loss"} <= logged(folder)


def test_vectors_alone_can_be_observed(tmp_path, capsys):
    """CartPole's state: no decoder for images; evaluation works, and visualize says what there is to draw."""
    folder = tmp_path / "run"
    train.main([*MICRO, "--env", "CartPole-v1", "--obs", "vector", "--logdir", str(folder)])
    assert "world_model/vector_loss" in logged(folder)
    assert "world_model/recon_loss" not in logged(folder)
    checkpoint = ["--checkpoint", str(folder / "model.pt")]
    evaluation.evaluate.main(*evaluation.AGENT, [*checkpoint, "--episodes", "2"])
    visualisation.visualize.main(*evaluation.AGENT, [*checkpoint, "--num-dreams", "2"])
    assert (folder / "figures" / "learning_curve.png").exists()
    assert "observes no images" in capsys.readouterr().out


def test_images_and_vectors_are_learned_together(tmp_path, capsys):
    """minecraft_navigate is TinyCraft where MineRL is not installed, and says so; so do config and figures."""
    folder = tmp_path / "run"
    train.main([*MICRO, "--env", "minecraft_navigate", "--preset", "tiny", "--logdir", str(folder)])
    ran = json.loads((folder / "config.json").read_text())["env"]
    if ran == "TinyCraft-v0":
        assert "minecraft_navigate runs as the built-in TinyCraft-v0" in capsys.readouterr().out
    else:
        assert ran == "minecraft_navigate"
    assert {"world_model/recon_loss", "world_model/vector_loss"} <= logged(folder)


def test_random_actions_can_come_first(tmp_path):
    """As in 2023: what was played by chance is trained on, too, from latents of zeros."""
    folder = tmp_path / "run"
    train.main([*MICRO, "--prefill", "100", "--logdir", str(folder)])
    assert saved(folder)["agent"]["updates"] == updates_due(rows_of(folder), FIRST, 2.0, 24)


@pytest.mark.parametrize(
    "options",
    [
        ("--reward-head", "mse", "--bin-space", "symlog", "--replay-value-scale", "0", "--dyn-scale", "0.5"),
        ("--return-norm", "none", "--first-cont", "data", "--unimix", "0", "--free-nats", "0"),
        ("--no-recon-grad", "--no-reward-grad", "--no-strided", "--overfit-batch"),
    ],
)
def test_switches_are_options_of_the_command_line(options, tmp_path):
    folder = tmp_path / "run"
    train.main([*MICRO, "--steps", "80", *options, "--logdir", str(folder)])
    config = json.loads((folder / "config.json").read_text())
    if options[-1] == "--overfit-batch":
        wanted = {"recon_grad": False, "reward_grad": False, "strided": False, "overfit_batch": True}
    else:
        names = [name.removeprefix("--").replace("-", "_") for name in options[::2]]
        number = lambda value: float(value) if value[0].isdigit() else value
        wanted = {name: number(value) for name, value in zip(names, options[1::2], strict=True)}
    assert {name: config[name] for name in wanted} == wanted
    assert "world_model/loss" in logged(folder)


# ---- presets ----


def test_presets_have_their_names():
    sizes = [f"size{n}m" for n in (1, 12, 25, 50, 100, 200)]
    assert list(PRESETS) == ["tiny", "small", *sizes, "paper"]


@pytest.mark.parametrize(
    ("name", "deter", "units", "classes", "depth"),
    [
        ("size1m", 512, 64, 4, 4),
        ("size12m", 2048, 256, 16, 16),
        ("size25m", 3072, 384, 24, 24),
        ("size50m", 4096, 512, 32, 32),
        ("size100m", 6144, 768, 48, 48),
        ("size200m", 8192, 1024, 64, 64),
        ("paper", 8192, 1024, 64, 64),
    ],
)
def test_sizes_are_rows_of_the_papers_table(name, deter, units, classes, depth):
    """32 variables and 8 blocks at every size."""
    preset = PRESETS[name]
    assert (preset.deter, preset.hidden, preset.units, preset.classes) == (deter, units, units, classes)
    assert (preset.depth, preset.stoch, preset.blocks, preset.strided) == (depth, 32, 8, False)
    assert preset.squash_image


@pytest.mark.parametrize("name", ["size1m", "size12m", "size25m", "size50m", "size100m", "size200m", "paper"])
def test_one_configuration_serves_all_domains(name):
    """Fact by fact; of a preset only size, environment and replay ratio differ."""
    preset = PRESETS[name]
    assert (preset.unimix, preset.free_nats, preset.dyn_scale, preset.rep_scale) == (0.01, 1.0, 1.0, 0.1)
    assert (preset.reward_head, preset.bins, preset.bin_space) == ("twohot", 255, "symexp")
    assert (preset.recon_grad, preset.reward_grad) == (True, True)
    assert (preset.horizon, preset.imag_last, preset.lam) == (15, None, 0.95)
    assert preset.discount == 1 - 1 / 333
    assert (preset.entropy_scale, preset.return_norm, preset.first_cont) == (3e-4, "percentile", "predicted")
    assert (preset.value_scale, preset.replay_value_scale) == (1.0, 0.3)
    assert (preset.slow_scale, preset.slow_rate) == (1.0, 0.02)
    assert (preset.batch, preset.length) == (16, 64)
    assert (preset.lr, preset.warmup, preset.agc) == (4e-5, 1000, 0.3)
    assert (preset.num_envs, preset.prefill, preset.replay_capacity, preset.image_size) == (16, 0, 5_000_000, 64)


def test_replay_ratios_are_those_of_the_domains():
    """512 on control, 32 on Atari's 200 million frames; the sizes alone are set up for control."""
    assert Config() == PRESETS["size12m"]
    assert (Config().env, Config().replay_ratio, Config().steps) == ("dmc_walker_walk", 512.0, 1_000_000)
    paper = PRESETS["paper"]
    assert (paper.env, paper.replay_ratio, paper.steps) == ("atari_pong", 32.0, 200_000_000)


def test_small_presets_are_the_same_algorithm():
    """Sizes, budgets and learning rates apart, every switch is the paper's."""
    for name in ("tiny", "small"):
        preset, paper = PRESETS[name], Config()
        for option in (
            "unimix",
            "free_nats",
            "dyn_scale",
            "reward_head",
            "bin_space",
            "recon_grad",
            "lam",
        ):
            assert getattr(preset, option) == getattr(paper, option), option
        for option in ("reward_grad", "return_norm", "first_cont", "value_scale", "replay_value_scale", "slow_scale"):
            assert getattr(preset, option) == getattr(paper, option), option
        assert preset.batch * preset.length * preset.replay_ratio > 0
        assert (preset.blocks, preset.prefill) == (8, 0)
    assert PRESETS["tiny"].env == "TinyCatch-v0"
    for option in ("squash_image", "post_scale", "rep_scale", "mults"):  # tiny has other ones, and says why
        assert getattr(PRESETS["small"], option) == getattr(Config(), option), option


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_option(name, tmp_path):
    config = parse_config(PRESETS, tmp_path, ["--preset", "tiny", *ABLATIONS[name]])
    changed = [key for key, value in asdict(config).items() if value != getattr(PRESETS["tiny"], key)]
    assert len(changed) == 1, changed


def test_atari_is_told_what_only_atari_knows():
    options = PRESETS["paper"].env_options()
    assert (options["grayscale"], options["full_actions"]) == (False, True)
    assert "life_loss" not in options, "an episode is a whole game"
    assert not {"grayscale", "full_actions"} & Config(env="dmc_walker_walk").env_options().keys()
    grey = Config(env="atari_pong", grayscale=True, full_actions=False, image_size=96).env_options()
    assert (grey["grayscale"], grey["full_actions"], grey["image_size"]) == (True, False, 96)


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "TinyCach-v0"], "TinyCatch-v0"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--prefill", "200"], "--steps 160 trains nothing: the first 200 (--prefill) are random"),
        (["--replay-capacity", "20"], "the replay holds 5 rows of each of 4 environments, and a window needs 7"),
        (["--horizon", "1"], "--horizon must be 2 or more, got 1"),
        (["--length", "1"], "--length must be 2 or more, got 1"),
        (["--warmup", "-1"], "--warmup must be 0 or more, got -1"),
        (["--preset", "huge"], "unknown preset 'huge'; there are: tiny, small, size1m, size12m, size25m, size50m"),
        (["--resume", "nowhere"], "nowhere holds no run"),
        (["--env", "CarRacing-v3", "--obs", "vector"], "CarRacing-v3 does not observe 'vector', only image"),
        (["--bin-space", "linear"], "invalid choice 'linear'"),
        (["--image-size", "60"], "--image-size must be a multiple of 8, not 60"),
        (["--deter", "12", "--blocks", "8"], "--deter 12 cannot be cut into --blocks 8"),
        (["--deter", "16", "--depth", "1", "--blocks", "8"], "4 channels (--depth) are not a multiple of 8 (--blocks)"),
        (["--classes", "300"], "--classes may be 256 at most, not 300"),
        (["--imag-last", "1"], "--imag-last must be 2 or more, got 1"),
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
