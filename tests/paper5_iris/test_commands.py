"""The commands of paper 5 as a user types them: Ctrl-C, kill -9, and the real environments of the README."""

import dataclasses
import json
import os
import re
import shlex
import signal
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium import spaces

from common.agent import dream
from common.env_wrapper import RowStream, make_vec_env
from common.metrics import read_metrics
from common.replay_buffer import ReplayBuffer
from paper5_iris import train
from paper5_iris.agent import IRISAgent
from paper5_iris.config import PRESETS
from tests.commands import Commands

pytestmark = pytest.mark.slow

COMMANDS = Commands(train)
FOLDER, run = COMMANDS.folder, COMMANDS.run
NETWORKS = (
    "--levels 2 --attention 2 --channels 8 --codes 8 --embed 4 --z 4 --frames 4 --width 8 --layers 1 --heads 2 "
    "--actor cnn_lstm --actor-channels 4 4 --actor-hidden 8 --burn-in 2 --horizon 3 --perceptual none --device cpu "
    "--tokenizer-batch 4 --world-model-batch 3 --actor-critic-batch 2"
)
TURNS = (
    "--tokenizer-updates 6 --world-model-updates 5 --actor-critic-updates 4 "
    "--tokenizer-after 0 --world-model-after 1 --actor-critic-after 2"
)
MICRO = (
    f"--env TinyCatch-v0 --preset paper --steps 400 --num-envs 4 --image-size 4 --eval-every 200 --eval-episodes 2 "
    f"--log-every 50 --epoch-steps 100 --last-epochs 2 {NETWORKS} {TURNS}"
)
# train.py, with a checkpoint after every update and line of the log instead of every five minutes
SAVE_ALWAYS = f"import sys; from common import runner; from {COMMANDS.package} import train; runner.SAVE_SECONDS = 0; "
SAVE_ALWAYS += "train.main(sys.argv[1:])"


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def updates_of(epochs: int) -> int:
    """6 of the tokenizer in each, 5 of the world model from the second on, 4 of the policy from the third on."""
    return 6 * epochs + 5 * max(0, epochs - 1) + 4 * max(0, epochs - 2)


def assert_log_is_whole(folder: Path) -> None:
    """Steps rise: nothing is logged twice, nothing falls back."""
    log = read_metrics(folder / "metrics.jsonl")
    steps = [row["step"] for row in log]
    assert steps == sorted(set(steps))
    assert [row["frames"] for row in log] == sorted(row["frames"] for row in log)


def test_kill_minus_9_and_resume(tmp_path):
    """In the middle of an epoch's updates. What is lost is what came after the last checkpoint; each update that is
    left of the epoch is made, and none twice."""
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "latest.pt"
    reached = lambda agent: agent["epoch"] >= 2 and 3 <= agent["done"] <= 9
    with COMMANDS.start(tmp_path / "1.txt", f"-c {shlex.quote(SAVE_ALWAYS)} {MICRO} --logdir {folder}") as command:
        command.until(lambda: checkpoint.exists() and reached(saved(folder)["agent"]))
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    frames, before = saved(folder)["frames"], saved(folder)["agent"]
    assert frames < 400
    assert before["done"] > 0
    assert updates_of(before["epoch"]) + before["done"] == before["updates"]
    output = run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    after = saved(folder)["agent"]
    assert saved(folder)["frames"] >= 400
    assert (after["epoch"], after["done"], after["updates"]) == (6, 0, updates_of(6))
    for name, updates in (("tokenizer", 6 * 6), ("world_model", 5 * 5), ("actor_critic", 4 * 4)):
        steps = {int(state["step"]) for state in after["optimizers"][name]["state"].values()}
        assert steps == {updates}, name
    resumed = [row for row in read_metrics(folder / "metrics.jsonl") if row["frames"] > frames]
    assert resumed[0]["frames"] <= frames + 60, "the resumed run goes on from the checkpoint"
    assert len(json.loads((folder / "sessions.json").read_text())) == 2


def test_ctrl_c_saves_and_the_command_it_prints_goes_on(tmp_path):
    folder = tmp_path / "run"
    with COMMANDS.start(tmp_path / "1.txt", f"train.py {MICRO} --logdir {folder}") as command:
        command.until(lambda: re.search(r"[1-3]\d\d/400", command.output) is not None)
        os.killpg(command.process.pid, signal.SIGINT)
        command.wait()
        output = command.output
    assert "Traceback" not in output
    assert f"stopped; go on with --resume {folder}" in output
    assert saved(folder)["frames"] >= 100
    before = saved(folder)["agent"]
    assert updates_of(before["epoch"]) + before["done"] == before["updates"] < updates_of(6)
    run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert saved(folder)["frames"] >= 400
    assert saved(folder)["agent"]["updates"] == updates_of(6)
    assert_log_is_whole(folder)


def test_all_commands_of_a_learner(tmp_path):
    """train.py with the networks of preset tiny, and eval.py, sample.py and visualize.py in the run's folder, with the
    checkpoint's name alone."""
    folder = tmp_path / "run"
    short = f"--steps 260 --num-envs 4 --epoch-steps 40 --tokenizer-until 2 {TURNS} --eval-every 130 --eval-episodes 2"
    output = run(tmp_path / "1.txt", f"train.py {short} --log-every 50 --device cpu --logdir {folder}")
    assert "preset: tiny" in output
    assert "policy/actor_loss" in set().union(*read_metrics(folder / "metrics.jsonl"))
    run(tmp_path / "2.txt", f"{FOLDER}/eval.py --checkpoint model.pt --episodes 2 --render --device cpu", folder)
    assert len(json.loads((folder / "eval.json").read_text())["returns"]) == 2
    assert len(imageio.mimread(folder / "videos" / "episode_0.mp4", memtest=False)) > 3
    run(tmp_path / "3.txt", f"{FOLDER}/sample.py --checkpoint model.pt --count 2 --horizon 6 --device cpu", folder)
    side = config_of(folder)["image_size"]
    assert np.load(folder / "trajectories" / "trajectories.npz")["image"].shape == (2, 6, side, side, 3)
    assert len(imageio.mimread(folder / "trajectories" / "trajectory_1.gif")) > 1
    line = f"{FOLDER}/visualize.py --checkpoint model.pt --num-dreams 2 --horizon 6 --device cpu"
    run(tmp_path / "4.txt", line, folder)
    names = "learning_curve predictions reconstructions imagination latents tokens temperatures"
    assert all((folder / "figures" / f"{name}.png").stat().st_size > 1000 for name in names.split())


def test_atari_is_learned_with_choices_and_frames_in_the_log(tmp_path):
    """A learner's command, in small, until all three have learned. Four frames are one choice; an epoch counts
    choices."""
    folder, log = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    small = f"--image-size 32 {NETWORKS} {TURNS} --epoch-steps 60 --log-every 200 --eval-every 1000000"
    line = f"train.py --env atari_breakout --steps 1000000 {small} --eval-episodes 1 --logdir {folder}"
    with COMMANDS.start(tmp_path / "1.txt", line) as process:
        process.until(lambda: log.exists() and any("policy/actor_loss" in row for row in read_metrics(log)))
        assert "preset: small" in process.output
    assert config_of(folder)["env"] == "atari_breakout"
    rows = read_metrics(log)
    shares = [row["frames"] / row["step"] for row in rows]
    assert all(3.7 < share <= 4 for share in shares), f"{shares} frames a choice: fewer than 4 where a life is lost"
    first = lambda name: next(row["step"] for row in rows if name in row)
    found = [first(name) for name in ("world_model/recon_loss", "world_model/token_loss", "policy/actor_loss")]
    for steps, due in zip(found, (60, 120, 180), strict=True):
        assert due <= steps <= due + 75


def test_a_lost_life_ends_an_episode_of_training_alone():
    """Breakout's games of training and of evaluation, played by doing nothing but serve: five lives."""
    lengths = {}
    paper = PRESETS["paper"]
    for name, options in (("training", paper.env_options()), ("evaluation", paper.eval_options())):
        stream = RowStream(make_vec_env(paper.env, 1, seed=0, **options))
        rows = stream.reset()
        assert rows["image"].shape == (1, 64, 64, 3)
        assert stream.action_size == 4, "the minimal set of actions"
        ends, steps = 0, 0
        while not ends and steps < 2_000:
            rows = stream.step(np.eye(4, dtype=np.float32)[[1]])  # fire
            steps += 1
            ends += int(rows["is_terminal"][0])
        assert ends == 1
        assert stream.frames <= 4 * steps
        lengths[name] = steps
        stream.envs.close()
    assert lengths["evaluation"] > 3 * lengths["training"], lengths


def test_networks_of_the_papers_size_learn_and_dream():
    """One update of each on a segment, and 20 imagined steps, which fill the memory of 340 positions."""
    config = dataclasses.replace(PRESETS["paper"], perceptual="none", tokenizer_batch=1)
    config = dataclasses.replace(config, world_model_batch=1, actor_critic_batch=1)
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    agent = IRISAgent(config, spaces.Dict(image=image), spaces.Discrete(4))
    replay, rng = ReplayBuffer(100), np.random.default_rng(0)
    for t in range(30):
        row = {"image": rng.integers(0, 256, (1, 64, 64, 3), np.uint8), "prev_action": np.eye(4, dtype=np.float32)[[1]]}
        row |= {"reward": np.zeros(1, np.float32), "is_first": np.array([t == 0])}
        replay.add(row | {"is_last": np.zeros(1, bool), "is_terminal": np.zeros(1, bool)})
    for component in agent.optimizers:
        metrics = agent.update(component, replay)
        assert all(np.isfinite(float(value)) for value in metrics.values()), component
    imagined = dream(agent, replay.windows([(0, 0)], 25), 2)
    assert imagined.images.shape == (1, 2, 64, 64, 3)
