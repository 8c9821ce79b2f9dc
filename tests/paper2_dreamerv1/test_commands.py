"""The commands of paper 2 as a user types them: Ctrl-C, kill -9, and the real environments of the README."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch

from common.metrics import read_metrics
from paper2_dreamerv1 import train
from tests.commands import Commands

pytestmark = pytest.mark.slow

COMMANDS = Commands(train)
FOLDER, run = COMMANDS.folder, COMMANDS.run
SMALL = (
    "--depth 2 --deter 16 --stoch 4 --hidden 16 --units 16 --batch 4 --length 6 --horizon 4 --pretrain 2 "
    "--train-every 40 --train-steps 1 --actor-delay 1 --eval-episodes 2 --device cpu"
)
MICRO = f"--env TinyReacher-v0 --steps 4000 --prefill 200 --num-envs 4 --eval-every 1000 --log-every 100 {SMALL}"
# train.py, with a checkpoint at every line of the log instead of every five minutes
SAVE_ALWAYS = f"import sys; from common import runner; from {COMMANDS.package} import train; runner.SAVE_SECONDS = 0; "
SAVE_ALWAYS += "train.main(sys.argv[1:])"


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)


def assert_log_is_whole(folder: Path) -> None:
    """Steps rise: nothing is logged twice, nothing falls back."""
    log = read_metrics(folder / "metrics.jsonl")
    steps = [row["step"] for row in log]
    assert steps == sorted(set(steps))
    assert [row["frames"] for row in log] == sorted(row["frames"] for row in log)


def test_kill_minus_9_and_resume(tmp_path):
    """What is lost is what came after the last checkpoint, and the log goes on behind it."""
    folder = tmp_path / "run"
    with COMMANDS.start(tmp_path / "1.txt", f"-c {shlex.quote(SAVE_ALWAYS)} {MICRO} --logdir {folder}") as command:
        command.until(lambda: (folder / "checkpoints" / "latest.pt").exists() and saved(folder)["frames"] > 800)
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    frames, updates = saved(folder)["frames"], saved(folder)["agent"]["updates"]
    output = run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    assert saved(folder)["frames"] >= 4000
    assert saved(folder)["agent"]["updates"] == 2 + (saved(folder)["frames"] - 200) // 40 > updates
    resumed = [row for row in read_metrics(folder / "metrics.jsonl") if row["frames"] > frames]
    assert resumed[0]["frames"] <= frames + 200, "the resumed run goes on from the checkpoint"
    assert len(json.loads((folder / "sessions.json").read_text())) == 2


def test_ctrl_c_saves_and_the_command_it_prints_goes_on(tmp_path):
    folder = tmp_path / "run"
    with COMMANDS.start(tmp_path / "1.txt", f"train.py {MICRO} --logdir {folder}") as command:
        command.until(lambda: re.search(r"[1-9]\d{2,}/4000", command.output) is not None)
        os.killpg(command.process.pid, signal.SIGINT)
        command.wait()
        output = command.output
    assert "Traceback" not in output
    assert f"stopped; go on with --resume {folder}" in output
    frames = saved(folder)["frames"]
    assert frames >= 100
    run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert saved(folder)["frames"] >= 4000
    assert_log_is_whole(folder)


@pytest.mark.parametrize("obs", ["image", "vector"])
def test_the_readmes_commands_on_dm_control(obs, tmp_path):
    """Train, evaluate, look, as the README has them, and everything small: from pixels and from proprioception."""
    folder = tmp_path / "run"
    small = f"{SMALL} --prefill 1000 --train-every 500 --eval-every 1500"
    task = "dmc_walker_walk" if obs == "image" else "dmc_cartpole_balance"
    line = f"train.py --env {task} --obs {obs} {small} --steps 1500 --logdir {folder}"
    output = run(tmp_path / "1.txt", line)
    assert "preset: small" in output
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["preset"], config["obs"]) == (task, "small", obs)
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert last["frames"] == 2 * last["step"] >= 1500, "each action is held for two frames"

    run(tmp_path / "2.txt", f"{FOLDER}/eval.py --checkpoint model.pt --episodes 2 --render --device cpu", folder)
    assert len(json.loads((folder / "eval.json").read_text())["returns"]) == 2
    assert len(imageio.mimread(folder / "videos" / "episode_0.mp4", memtest=False)) > 100
    line = f"{FOLDER}/visualize.py --checkpoint model.pt --num-dreams 2 --horizon 10 --device cpu"
    output = run(tmp_path / "3.txt", line, folder)
    assert (folder / "figures" / "learning_curve.png").stat().st_size > 1000
    assert (folder / "figures" / "predictions.png").exists() == (obs == "image")


def test_the_paper_discrete_preset_plays_atari(tmp_path):
    """Frames are counted four to an action; rewards are squashed, and ends predicted."""
    folder = tmp_path / "run"
    line = f"train.py --preset paper_discrete {SMALL} --prefill 800 --train-every 200 --log-every 500 --logdir {folder}"
    log = folder / "metrics.jsonl"
    with COMMANDS.start(tmp_path / "1.txt", line) as command:
        command.until(lambda: log.exists() and read_metrics(log) and read_metrics(log)[-1]["frames"] >= 1500)
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["reward_transform"]) == ("atari_boxing", "tanh")
    assert all(row["frames"] == 4 * row["step"] for row in read_metrics(log))
    assert "world_model/cont_loss" in set().union(*read_metrics(log))
