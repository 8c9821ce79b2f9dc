"""visualize.py on a toy agent whose dreams are right by construction, if the actions reach it in step."""

import imageio.v2 as imageio
import numpy as np
import pytest

from common import visualize
from common.env_wrapper import make_env
from common.metrics import Logger
from common.visualize import VisualizeOptions, draw
from tests.common.toys import PAPER, ToyAgent, ToyConfig, save_toy

TITLE, SCALE, GAP = 24, 3, 6  # of side_by_side: rows of title above, pixels for a pixel, pixels between
BORDER = 4  # of mark_first


def toy_episode(length: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of a world in which ToyAgent's model is exact: action k (of 3) makes every pixel k brighter."""
    actions = np.random.default_rng(seed).integers(3, size=length)
    actions[0] = 0
    brightness = 50 * seed + np.cumsum(actions)
    return {
        "image": np.broadcast_to(brightness[:, None, None, None], (length, 8, 8, 3)).astype(np.uint8),
        "prev_action": np.eye(3, dtype=np.float32)[actions] * (np.arange(length) > 0)[:, None],
        "reward": actions.astype(np.float32),
        "is_first": np.arange(length) == 0,
        "is_terminal": np.zeros(length, bool),
        "is_last": np.arange(length) == length - 1,
    }


def toy_agent(action: int) -> ToyAgent:
    agent = ToyAgent(None, None, make_env("TinyCatch-v0").action_space)
    agent.action = np.int64(action)
    return agent


def frames_of(path) -> np.ndarray:
    return np.stack([frame[..., :3] for frame in imageio.mimread(path)])


def test_dreams_begin_at_the_last_context_row_and_follow_the_policy(tmp_path):
    episodes = [toy_episode(20, seed) for seed in (1, 2, 3)]
    written = draw(toy_agent(2), episodes, tmp_path, VisualizeOptions(num_dreams=3, horizon=7, context=4))
    for i, rows in enumerate(episodes):
        frames = frames_of(tmp_path / "videos" / f"dream_{i}.gif")
        start = int(rows["image"][3, 0, 0, 0])
        assert frames[:, TITLE + 5, 5, 0].tolist() == [start + 2 * k for k in range(8)]  # the real one, then 7 dreamt
    assert len(written) == len(set(written)) == 4 + 3 + 1
    assert all(path.is_file() for path in written)


def test_a_prediction_takes_the_actions_that_were_really_taken(tmp_path):
    """The model is exact: every difference to reality would be a row too early or too late."""
    short, long = toy_episode(9, 1), toy_episode(20, 2)
    draw(toy_agent(0), [short, long], tmp_path, VisualizeOptions(num_dreams=2, horizon=12, context=5))
    frames = frames_of(tmp_path / "videos" / "predictions.gif")
    border, frames = frames[:, 0, 0], frames[:, TITLE + 5 + BORDER]
    reality, predicted, difference = (frames[:, i * (8 * SCALE + GAP) + 5 + BORDER, 0].tolist() for i in range(3))
    steps = [(int(long["image"][t, 0, 0, 0]), t < 5) for t in range(17)]  # the longest episode's; the context is framed
    shown = [b for a, b in zip([None, *steps], steps, strict=False) if a != b]  # a GIF joins equal frames
    assert reality == predicted == [value for value, _ in shown]
    assert set(difference) == {0}
    assert [tuple(colour) for colour in border] == [(232, 113, 10) if framed else (255,) * 3 for _, framed in shown]


def test_an_episode_shorter_than_the_context_shortens_it(tmp_path):
    written = draw(toy_agent(1), [toy_episode(3, 1), toy_episode(20, 2)], tmp_path, VisualizeOptions(num_dreams=2))
    assert all(path.is_file() for path in written)
    assert frames_of(tmp_path / "videos" / "dream_0.gif")[0, TITLE + 5, 5, 0] == toy_episode(3, 1)["image"][1, 0, 0, 0]


def run_visualize(runs, *argv):
    visualize.main(ToyAgent, ToyConfig, PAPER, runs, ["--device", "cpu", *map(str, argv)])


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    path = save_toy(tmp_path / "run" / "model.pt")
    run_visualize(tmp_path, "--checkpoint", path, "--num-dreams", 2, "--horizon", 6)
    printed = [line.removeprefix("written: ") for line in capsys.readouterr().out.splitlines() if "written" in line]
    names = [f"figures/{name}.png" for name in ("reconstructions", "latents", "imagination", "predictions")]
    names += ["videos/dream_0.gif", "videos/dream_1.gif", "videos/predictions.gif"]
    assert sorted(printed) == sorted(str(tmp_path / "run" / name) for name in names)  # and no curve without a log
    assert len(frames_of(tmp_path / "run" / "videos" / "dream_1.gif")) == 7

    with Logger(tmp_path / "run", tensorboard=False) as logger:
        logger.log({"policy/episode_return": 1.0}, step=1, frames=100)
    run_visualize(tmp_path, "--checkpoint", path, "--num-dreams", 1, "--horizon", 2)
    assert str(tmp_path / "run" / "figures" / "learning_curve.png") in capsys.readouterr().out
    assert (tmp_path / "run" / "figures" / "learning_curve.png").is_file()


def test_a_run_that_has_logged_no_return_yet_is_no_error(tmp_path):
    """A student looks in while V or M still trains."""
    path = save_toy(tmp_path / "model.pt")
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log({"world_model/kl": 1.0}, step=1, frames=100)
    run_visualize(tmp_path, "--checkpoint", path, "--num-dreams", 1, "--horizon", 2)
    assert not (tmp_path / "figures" / "learning_curve.png").exists()


def test_the_curve_shows_evaluations_where_there_are_some(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(visualize, "plot_curves", lambda runs, path, y, baselines: shown.append((y, baselines)))
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log({"policy/episode_return": 1.0}, step=1, frames=100)
        visualize.learning_curve(tmp_path, "CartPole-v1")
        logger.log({"policy/episode_return": 1.0, "policy/eval_return": 2.0}, step=2, frames=200)
        visualize.learning_curve(tmp_path, "TinyCatch-v0")
    assert shown == [
        ("policy/episode_return", None),
        ("policy/eval_return", {"random": pytest.approx(-0.42, abs=0.2), "optimal": 1.0}),
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-dreams", "0"], "must be positive"),
        (["--horizon", "0"], "must be positive"),
        (["--context", "0"], "must be positive"),
        (["--temperature", "0"], "--temperature"),
        (["--checkpoint", "missing.pt"], "no checkpoint missing.pt"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_toy(tmp_path / "model.pt")
    with pytest.raises(SystemExit) as stop:
        run_visualize(tmp_path / "runs", *argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
