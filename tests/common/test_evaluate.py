"""Episodes played, counted and summed up: on scripted environments, every number worked out by hand."""

import json
import re

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from common import evaluate
from common.env_wrapper import ActionRepeat, RowStream, make_env
from common.evaluate import RandomPolicy, open_episodes, rollout, summarise
from common.tiny_envs import SCORES
from tests.common.toys import PAPER, Scripted, ToyAgent, ToyConfig, save_toy


class Clerk:
    """Acts with (frames seen so far / 100, its own step count / 100), and writes down what it was asked."""

    def __init__(self):
        self.explored, self.batches = set(), []

    def initial_state(self, batch_size):
        self.batches.append(batch_size)
        return {"count": np.zeros(batch_size)}

    def act(self, obs, state, *, explore):
        self.explored.add(explore)
        action = np.stack([obs["vector"][:, 1], state["count"]], 1) / 100
        return action.astype(np.float32), {"count": state["count"] + 1}


def stream(envs: int = 2, repeat: int = 1) -> RowStream:
    return RowStream(SyncVectorEnv([lambda: ActionRepeat(Scripted(), repeat)] * envs))


# ---- rollout ----


@pytest.mark.parametrize("envs", [1, 2, 3, 4])
def test_every_seed_plays_one_episode_in_the_order_of_the_seeds(envs):
    """One by one, in two waves, all at once, and with an environment too many: the numbers are the same."""
    played = rollout(clerk := Clerk(), stream(envs), [12, 10, 11])
    assert played.returns.tolist() == [3.0, 6.0, 0.5]
    assert played.lengths.tolist() == [5, 3, 1]
    assert played.frames.tolist() == [5, 3, 1]
    assert played.rows is None
    assert clerk.batches == [envs] * -(-3 // envs)  # a fresh state for each wave
    assert clerk.explored == {False}


def test_environments_without_a_seed_of_their_own_neither_count_nor_hold_up_the_others():
    shown = []
    played = rollout(Clerk(), stream(2), [10, 11, 12], watch=lambda: shown.append(1))
    assert len(played.returns) == 3
    assert played.returns.sum() == 9.5  # nothing of the 100 a frame that the fourth plays for
    assert len(shown) == (1 + 3) + (1 + 5)  # two resets; each wave lasts as long as its longest counted episode


def test_exploring_is_passed_on():
    rollout(clerk := Clerk(), stream(), [10], explore=True)
    assert clerk.explored == {True}


def test_frames_count_action_repeats_and_a_repeat_that_the_end_interrupts():
    played = rollout(Clerk(), stream(2, repeat=2), [10, 11, 12], record=True)
    assert played.lengths.tolist() == [2, 1, 3]
    assert played.frames.tolist() == [3, 1, 5]
    assert played.returns.tolist() == [6.0, 0.5, 3.0]
    assert played.rows[2]["reward"].tolist() == [0.0, -1.0, 0.0, 4.0]


def test_rows_hold_what_led_to_them():
    played = rollout(Clerk(), stream(2), [10, 11, 12], record=True)
    assert [len(rows["reward"]) for rows in played.rows] == [4, 2, 6]  # one more than the steps
    for seed, rows in zip([10, 11, 12], played.rows, strict=True):
        rewards, terminal = Scripted.PLANS[seed]
        steps = len(rewards)
        assert rows["vector"].tolist() == [[seed, t] for t in range(steps + 1)]
        assert rows["reward"].tolist() == [0.0, *rewards]
        assert rows["is_first"].tolist() == [True] + [False] * steps
        assert rows["is_last"].tolist() == [False] * steps + [True]
        assert rows["is_terminal"].tolist() == [False] * steps + [terminal]
        taken = [[0, 0]] + [[t / 100, t / 100] for t in range(steps)]  # what row t - 1 was answered with
        np.testing.assert_allclose(rows["prev_action"], taken, rtol=1e-6)


def test_max_steps_cuts_without_a_true_end():
    played = rollout(Clerk(), stream(2), [10, 12, 11], max_steps=3, record=True)
    assert played.lengths.tolist() == [3, 3, 1]
    assert played.returns.tolist() == [6.0, -1.0, 0.5]
    assert [rows["is_last"].tolist() for rows in played.rows] == [[False] * 3 + [True]] * 2 + [[False, True]]
    # seed 10 really ends in the step at which it would have been cut
    assert [bool(rows["is_terminal"][-1]) for rows in played.rows] == [True, False, True]


def test_a_cut_episode_leaves_nothing_to_the_next_wave():
    played = rollout(Clerk(), stream(1), [13, 10], max_steps=2, record=True)
    assert played.returns.tolist() == [1.0, 3.0]
    assert played.rows[1]["vector"].tolist() == [[10, 0], [10, 1], [10, 2]]


@pytest.mark.parametrize(
    ("patience", "length", "total"),
    [
        (1, 2, 1.0),  # cut by the first step without reward
        (2, 3, 1.0),
        (3, 7, 5.0),  # the reward in step 4 comes just in time, and the count begins again
        (4, 8, 12.0),
        (0, 8, 12.0),  # never
    ],
)
def test_patience_counts_steps_in_a_row_without_reward(patience, length, total):
    """Seed 13: 1, 0, 0, 5, 0, -1, 0, 7."""
    played = rollout(Clerk(), stream(2), [13, 12], patience=patience, record=True)
    assert played.lengths[0] == length
    assert played.returns[0] == total
    assert played.rows[0]["is_last"].tolist() == [False] * length + [True]
    assert bool(played.rows[0]["is_terminal"][-1]) == (length == 8)
    # seed 12: 0, -1, 0, 0, 4 is impatient on its own count
    assert played.lengths[1] == (5 if patience in (0, 5) else min(patience, 5))


def test_patience_counts_agent_steps_not_frames():
    assert rollout(Clerk(), stream(1, repeat=2), [13], patience=2).lengths.tolist() == [4]


# ---- evaluation ----


def test_summarise_divides_by_n_minus_1():
    score = summarise(np.array([1.0, 2.0, 3.0, 6.0]))
    assert score["mean"] == 3.0
    assert score["std"] == pytest.approx((14 / 3) ** 0.5)
    assert score["sem"] == pytest.approx((14 / 3) ** 0.5 / 2)
    assert score["n"] == 4
    assert summarise(np.array([5.0]))["std"] is None


def test_evaluation_episodes_have_consecutive_seeds(monkeypatch):
    seeds = []

    class Spy(Scripted):
        def reset(self, *, seed=None, options=None):
            seeds.extend([] if seed is None else [seed])
            return super().reset(seed=seed, options=options)

    monkeypatch.setattr(evaluate, "open_episodes", lambda *_, **__: RowStream(SyncVectorEnv([Spy] * 4)))
    played, score = evaluate.evaluate(Clerk(), "any", 4, seed=10)
    assert seeds == [10, 11, 12, 13]
    assert played.returns.tolist() == [6.0, 0.5, 3.0, 12.0]
    assert score == summarise(np.array([6.0, 0.5, 3.0, 12.0]))


def test_built_in_episodes_are_one_batch_and_others_a_process_for_each_core(monkeypatch):
    made = []
    monkeypatch.setattr(evaluate, "make_vec_env", lambda env_id, n, **options: made.append((n, options)))
    monkeypatch.setattr(evaluate, "RowStream", lambda envs: envs)
    monkeypatch.setattr(evaluate.os, "cpu_count", lambda: 3)
    open_episodes("TinyCatch-v0", 7, image_size=64)
    open_episodes("CarRacing-v3", 7)
    open_episodes("CarRacing-v3", 2)
    open_episodes("CarRacing-v3", 1)
    expected = [(7, {"image_size": 64}), (3, {"parallel": True}), (2, {"parallel": True}), (1, {"parallel": False})]
    assert made == expected


def test_the_random_policy_acts_as_rows_do():
    obs = {"is_first": np.zeros(300, bool)}
    discrete = RandomPolicy(gymnasium.spaces.Discrete(3), 0).act(obs, {})[0]
    assert discrete.dtype == np.float32
    assert ((discrete == 0) | (discrete == 1)).all()
    assert (discrete.sum(1) == 1).all()
    assert (discrete.sum(0) > 60).all()  # 100 each; 60 is 5 standard deviations away
    policy = RandomPolicy(gymnasium.spaces.Box(-1, 1, (2,)), 1)
    first, second = policy.act(obs, {})[0], policy.act(obs, {})[0]
    assert first.dtype == np.float32
    assert first.shape == (300, 2)
    assert -1 <= first.min() < -0.9
    assert 0.9 < first.max() <= 1
    assert not np.array_equal(first, second)
    again = RandomPolicy(gymnasium.spaces.Box(-1, 1, (2,)), 1)
    assert np.array_equal(again.act(obs, {})[0], first)


# ---- eval.py ----


def run_eval(runs, *argv):
    evaluate.main(ToyAgent, ToyConfig, PAPER, runs, ["--device", "cpu", *map(str, argv)])


def catch_returns(action: int, seeds: range) -> tuple[list[float], list[int]]:
    """What TinyCatch pays for always the same action, and for how many steps: played here, one after the other."""
    env, returns, lengths = make_env("TinyCatch-v0"), [], []
    for seed in seeds:
        env.reset(seed=seed)
        total, steps, over = 0.0, 0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(action)
            total, steps, over = total + reward, steps + 1, terminated or truncated
        returns.append(total)
        lengths.append(steps)
    return returns, lengths


def test_what_eval_prints_is_what_it_writes_and_what_was_played(tmp_path, capsys):
    path = save_toy(tmp_path / "run" / "model.pt", action=1)
    run_eval(tmp_path, "--checkpoint", path, "--episodes", 4, "--render")
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "run" / "eval.json").read_text())

    expected, lengths = catch_returns(1, range(1_000_000, 1_000_004))
    assert len(set(expected)) > 1  # else the test could not tell the episodes apart
    assert written["returns"] == expected
    mean, std = np.mean(expected), np.std(expected, ddof=1)
    assert written["agent"] == pytest.approx({"mean": mean, "std": std, "sem": std / 2, "n": 4})
    assert written["env"] == "TinyCatch-v0"
    assert written["checkpoint"] == str(path)
    assert written["random"]["n"] == 4
    random, optimal = SCORES["TinyCatch-v0"]
    assert written["score"] == pytest.approx((mean - random) / (optimal - random))

    numbers = r"(-?\d+\.\d\d) \+- (\d+\.\d\d) \(standard deviation, n = 4\)"
    agent = re.search(rf"agent +{numbers} in (\d+) agent steps, (\d+) frames", printed)
    assert agent.groups() == (f"{mean:.2f}", f"{std:.2f}", *[f"{np.mean(lengths):.0f}"] * 2)
    chance = re.search(rf"random +{numbers}", printed)
    assert chance.groups() == (f"{written['random']['mean']:.2f}", f"{written['random']['std']:.2f}")
    assert re.search(r"score +(-?\d+\.\d\d)", printed)[1] == f"{written['score']:.2f}"

    videos = sorted((tmp_path / "run" / "videos").iterdir())
    assert [video.name for video in videos] == ["episode_0.mp4", "episode_1.mp4", "episode_2.mp4"]
    assert [len(imageio.mimread(video)) for video in videos] == [length + 1 for length in lengths[:3]]
    assert [float(x) for x in re.findall(r"\(return (-?[\d.]+)\)", printed)] == expected[:3]


def test_eval_finds_the_newest_run_and_makes_no_video_unasked(tmp_path, capsys, monkeypatch):
    save_toy(tmp_path / "20250101-000000-old" / "model.pt", action=0)
    newest = save_toy(tmp_path / "20250102-000000-new" / "model.pt", action=1)
    monkeypatch.chdir(tmp_path)
    run_eval(tmp_path, "--episodes", 5, "--seed", 7)
    assert f"checkpoint: {newest}" in capsys.readouterr().out
    written = json.loads((newest.parent / "eval.json").read_text())
    assert written["returns"] == catch_returns(1, range(7, 12))[0] != catch_returns(0, range(7, 12))[0]
    assert not (newest.parent / "videos").exists()


def test_eval_plays_in_the_environments_of_an_evaluation(tmp_path, capsys):
    class Short(ToyConfig):
        def eval_options(self):
            return {**self.env_options(), "time_limit": 2}

    path = save_toy(tmp_path / "model.pt")
    evaluate.main(ToyAgent, Short, PAPER, tmp_path, ["--checkpoint", str(path), "--episodes", "2", "--device", "cpu"])
    assert "in 2 agent steps, 2 frames" in capsys.readouterr().out


def test_one_episode_is_valid_json_too(tmp_path):
    """A standard deviation of one episode is not a number, and JSON has no word for that."""
    path = save_toy(tmp_path / "model.pt")
    run_eval(tmp_path, "--checkpoint", path, "--episodes", 1)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "eval.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--episodes", "0"], "--episodes must be positive, got 0"),
        (["--episodes", "-3"], "--episodes must be positive, got -3"),
        (["--checkpoint", "missing.pt"], "no checkpoint missing.pt in"),
        (["--checkpoint", "corrupt.pt"], "corrupt.pt is damaged, incomplete or no checkpoint"),
        (["--checkpoint", "other.pt"], "other.pt is a checkpoint of paper9, not of paper0_toy"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_toy(tmp_path / "model.pt")
    save_toy(tmp_path / "other.pt", paper="paper9")
    (tmp_path / "corrupt.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-100])
    with pytest.raises(SystemExit) as stop:
        run_eval(tmp_path / "runs", *argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "eval.json").exists()
