"""The loop of papers 2 to 5, with an agent whose every number can be worked out."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from common import runner
from common.checkpoint import load_checkpoint
from common.errors import UserError
from common.evaluate import rollout
from common.jobs import Stopped
from common.metrics import read_metrics
from common.replay_buffer import ReplayBuffer
from common.runner import Run, RunnerConfig, train
from tests.common.toys import PAPER, ToyAgent
from tests.helpers import comparable


@dataclass
class LearnerConfig(RunnerConfig):
    env: str = "TinyCatch-v0"
    steps: int = 120
    num_envs: int = 3
    prefill: int = 30
    eval_every: int = 50
    eval_episodes: int = 4
    log_every: int = 20


class Learner(ToyAgent):
    """Counts its updates, `each` for every 10 frames behind the prefill, made one by one; acts at random, by torch's
    generator."""

    device = torch.device("cpu")

    def __init__(self, config, break_at: int | None = None, each: int = 1):
        self.config, self.n, self.updates, self.break_at, self.each = config, 3, 0, break_at, each
        self.explored: list[bool] = []
        self.learned_at: list[int] = []
        self.weight = torch.zeros(2)

    def act(self, obs, state, *, explore):
        self.explored.append(explore)
        choice = torch.randint(self.n, (len(obs["is_first"]),)).numpy()
        return np.eye(self.n, dtype=np.float32)[choice], {}

    def learn(self, replay: ReplayBuffer, step: int):
        if self.updates == (step - self.config.prefill) // 10 * self.each:
            self.learned_at.append(step)  # all that was due
            return {}
        self.updates += 1
        if self.updates == self.break_at:
            raise RuntimeError("power cut")
        self.weight += 1
        return {"world_model/loss": self.weight[0].clone()}

    def weights(self):
        return {"network": {"weight": self.weight}}

    def state_dict(self):
        return {**self.weights(), "updates": self.updates}

    def load_state_dict(self, state):
        self.weight, self.updates = state["network"]["weight"], state.get("updates", 0)


def play(folder: Path, config: LearnerConfig, **options) -> Learner:
    agent = Learner(config, **options)
    train(agent, config, folder, PAPER)
    return agent


def saved_in(folder: Path) -> dict:
    return load_checkpoint(folder / "checkpoints" / "latest.pt", paper=PAPER)


def test_a_run_leaves_what_it_promises(tmp_path):
    agent = play(tmp_path, LearnerConfig())
    assert load_checkpoint(tmp_path / "model.pt", paper=PAPER)["agent"].keys() == {"network"}
    saved = saved_in(tmp_path)
    assert saved["frames"] >= 120
    assert saved["agent"]["updates"] == agent.updates
    replay = ReplayBuffer(10_000, directory=tmp_path / "replay")
    replay.restore()
    assert replay.streams == 3
    assert replay.end == saved["ticks"] + 1, "one row for the reset, and one for each turn"
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_random_until_the_prefill_is_over_and_learning_from_then_on(tmp_path):
    agent = play(tmp_path, LearnerConfig())
    assert min(agent.learned_at) >= 30
    assert max(agent.learned_at) >= 120
    assert len(agent.learned_at) >= (120 - 30) / 3
    played = [explore for explore in agent.explored if explore]
    assert agent.learned_at[-1] == agent.learned_at[-2], "what is still due at the end"
    assert len(played) == len(agent.learned_at) - 2, "the agent acts from the frame on where it learns"


def test_log_counts_frames_and_agent_steps_and_averages(tmp_path):
    play(tmp_path, LearnerConfig())
    log = read_metrics(tmp_path / "metrics.jsonl")
    frames = [row["frames"] for row in log]
    assert frames == sorted(frames)
    assert all(row["step"] == row["frames"] for row in log), "TinyCatch plays one frame in a step"
    evaluated = [row for row in log if "policy/eval_return" in row]
    assert len(evaluated) == 3, "at 50, at 100, and at the end"
    assert all("policy/eval_return_std" in row for row in evaluated)
    losses = [row["world_model/loss"] for row in log if "world_model/loss" in row]
    assert losses == sorted(losses)
    assert all(row["efficiency/parameters"] == 2 for row in log)
    assert any(-1 <= row.get("policy/episode_return", 9) <= 1 for row in log)


def test_evaluation_plays_the_same_episodes_without_exploration(tmp_path):
    config = LearnerConfig()
    run = Run(Learner(config), config, tmp_path, PAPER)
    seeds = []
    original = runner.rollout

    def spy(agent, stream, chosen, **options):
        seeds.append(chosen)
        assert stream is run.eval_stream
        return original(agent, stream, chosen, **options)

    runner.rollout = spy
    try:
        run.evaluate()
        run.evaluate()
    finally:
        runner.rollout = original
        run.close()
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4
    assert not any(run.agent.explored)
    first, second = (row["policy/eval_return"] for row in read_metrics(tmp_path / "metrics.jsonl"))
    assert first == second


def test_environments_of_an_evaluation_can_be_others(tmp_path):
    class Short(LearnerConfig):
        def eval_options(self):
            return {**self.env_options(), "time_limit": 2}

    run = Run(Learner(Short()), Short(), tmp_path, PAPER)
    longest = lambda stream: rollout(run.agent, stream, [0, 1, 2]).lengths.max()
    assert longest(run.eval_stream) == 2 < longest(run.stream)
    run.close()


def test_two_runs_with_one_seed_are_the_same_and_evaluations_disturb_nothing(tmp_path):
    play(tmp_path / "one", LearnerConfig())
    play(tmp_path / "two", LearnerConfig())
    assert comparable(tmp_path / "one") == comparable(tmp_path / "two")
    play(tmp_path / "other", LearnerConfig(seed=1))
    assert comparable(tmp_path / "one") != comparable(tmp_path / "other")
    play(tmp_path / "seldom", LearnerConfig(eval_every=1000))
    rows = [ReplayBuffer(10_000, directory=tmp_path / name / "replay") for name in ("one", "seldom")]
    for replay in rows:
        replay.restore()
    one, seldom = (replay.windows([(0, 0)], replay.end)["prev_action"] for replay in rows)
    assert np.array_equal(one, seldom)


def test_a_run_that_breaks_off_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_SECONDS", 0)
    with pytest.raises(RuntimeError, match="power cut"):
        play(tmp_path, LearnerConfig(), break_at=7)
    saved = saved_in(tmp_path)
    assert 80 <= saved["frames"] < 104, "what is lost is less than one line of the log"
    before = comparable(tmp_path)
    agent = play(tmp_path, LearnerConfig())
    assert agent.learned_at[0] > saved["frames"]
    assert agent.weight[0] == agent.updates, "no update is lost and none is made twice"
    log = comparable(tmp_path)
    assert log[: len(before)] == before
    steps = [row["step"] for row in log]
    assert steps == sorted(steps)
    replay = ReplayBuffer(10_000, directory=tmp_path / "replay")
    replay.restore()
    assert replay.episodes()["stream"].size >= 2
    assert replay.windows([(0, 0)], replay.end)["is_first"][0, saved["ticks"] + 1], "the resumed run begins episodes"


def test_what_is_due_is_learned_piece_by_piece_before_the_next_action(tmp_path):
    """Four updates at 42, at 51 and at 60 frames, and so on; the log has the mean of all since its last line."""
    config, order = LearnerConfig(), []

    class Taking(Learner):
        def act(self, obs, state, *, explore):
            order.append("act")
            return super().act(obs, state, explore=explore)

        def learn(self, replay, step):
            metrics = super().learn(replay, step)
            order.extend(["learn"] * bool(metrics))
            return metrics

    agent = Taking(config, each=4)
    train(agent, config, tmp_path, PAPER)
    assert agent.updates == 4 * 9
    assert " ".join(order).count("act learn learn learn learn act") == 9
    losses = {row["frames"]: row.get("world_model/loss") for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert (losses[42], losses[51], losses[60]) == (2.5, 6.5, 10.5)


@pytest.mark.parametrize("updates", [6, 34])
def test_a_stop_between_the_pieces_saves_and_the_rest_is_learned_when_the_run_goes_on(updates, tmp_path):
    """In the middle of what is due at 51 frames, and of what is due when all frames are played."""

    class Pressing(Learner):
        def learn(self, replay, step):
            run.stop.pressed = self.updates == updates - 1
            return super().learn(replay, step)

    config = LearnerConfig()
    run = Run(Pressing(config, each=4), config, tmp_path, PAPER)
    with pytest.raises(Stopped):
        run.play()
    run.save()
    run.close()
    before = saved_in(tmp_path)
    assert before["agent"]["updates"] == updates
    assert (before["frames"] >= 120) == (updates == 34)
    agent = play(tmp_path, config, each=4)
    assert agent.updates == agent.weight[0] == 4 * 9
    if updates == 34:
        assert saved_in(tmp_path)["ticks"] == before["ticks"], "all was played already"


def test_a_power_cut_between_the_pieces_costs_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_SECONDS", 0)
    with pytest.raises(RuntimeError, match="power cut"):
        play(tmp_path, LearnerConfig(), break_at=7, each=4)
    assert saved_in(tmp_path)["agent"]["updates"] == 6


def test_a_run_killed_within_its_first_save_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_SECONDS", 0)
    original = runner.save_checkpoint

    def broken(path, payload):
        raise RuntimeError("power cut")

    monkeypatch.setattr(runner, "save_checkpoint", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        play(tmp_path, LearnerConfig())
    assert (tmp_path / "replay" / "replay.json").exists()
    monkeypatch.setattr(runner, "save_checkpoint", original)
    play(tmp_path, LearnerConfig())
    play(tmp_path.with_name("fresh"), LearnerConfig())
    assert comparable(tmp_path) == comparable(tmp_path.with_name("fresh"))


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys):
    class Pressing(Learner):
        def learn(self, replay, step):
            if step >= 60:
                run.stop.pressed = True
            return super().learn(replay, step)

    config = LearnerConfig()
    run = Run(Pressing(config), config, tmp_path, PAPER)
    original, runner.Run = runner.Run, lambda *args: run
    try:
        train(run.agent, config, tmp_path, PAPER)
    finally:
        runner.Run = original
    assert f"stopped; go on with --resume {tmp_path}" in capsys.readouterr().out
    saved = saved_in(tmp_path)
    assert 60 <= saved["frames"] < 66


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    class Exploding(Learner):
        def learn(self, replay, step):
            metrics = super().learn(replay, step)
            return metrics and (metrics if step < 90 else {"world_model/loss": torch.tensor(float("nan"))})

    monkeypatch.setattr(runner, "SAVE_SECONDS", 0)
    config = LearnerConfig()
    with pytest.raises(UserError, match=r"world_model/loss is nan at frame \d+"):
        train(Exploding(config), config, tmp_path, PAPER)
    assert saved_in(tmp_path)["frames"] < 90


def test_the_end_of_a_run_is_logged_and_evaluated_wherever_it_falls(tmp_path):
    """Between two lines of the log, too; and a finished run that is resumed does not evaluate again."""
    play(tmp_path, LearnerConfig(steps=110))
    log = read_metrics(tmp_path / "metrics.jsonl")
    saved = saved_in(tmp_path)
    assert log[-1]["step"] == saved["agent_steps"]
    assert "policy/eval_return" in log[-1]
    play(tmp_path, LearnerConfig(steps=110))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == len(log)


def test_a_loss_that_is_nan_in_the_last_frames_is_found(tmp_path):
    class Exploding(Learner):
        def learn(self, replay, step):
            metrics = super().learn(replay, step)
            return metrics and (metrics if step < 106 else {"world_model/loss": torch.tensor(float("nan"))})

    config = LearnerConfig(steps=110)
    with pytest.raises(UserError, match=r"world_model/loss is nan"):
        train(Exploding(config), config, tmp_path, PAPER)
    assert not (tmp_path / "checkpoints" / "latest.pt").exists()


def test_longer_run_goes_on_where_a_finished_one_ended(tmp_path):
    play(tmp_path, LearnerConfig())
    agent = play(tmp_path, LearnerConfig(steps=180))
    assert agent.learned_at[0] > 120
    assert json.loads((tmp_path / "replay" / "replay.json").read_text())["end"] > 50
