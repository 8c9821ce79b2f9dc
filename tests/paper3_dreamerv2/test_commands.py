"""The commands of paper 3 as a user types them: Ctrl-C, kill -9, and the real environments of the README."""

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

from common.env_wrapper import RowStream, make_vec_env
from common.metrics import read_metrics
from paper3_dreamerv2 import train
from paper3_dreamerv2.config import PRESETS
from tests.commands import Commands

pytestmark = pytest.mark.slow

COMMANDS = Commands(train)
FOLDER, run = COMMANDS.folder, COMMANDS.run
SMALL = (
    "--depth 2 --deter 16 --stoch 4 --classes 4 --hidden 16 --units 16 --batch 4 --length 6 --horizon 4 --pretrain 2 "
    "--train-every 40 --slow-every 3 --eval-episodes 2 --device cpu"
)
MICRO = f"--env TinyCatch-v0 --steps 4000 --prefill 200 --num-envs 4 --eval-every 1000 --log-every 100 {SMALL}"
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
        latest = folder / "checkpoints" / "latest.pt"
        command.until(lambda: latest.exists() and saved(folder)["frames"] > 800)
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    frames, updates = saved(folder)["frames"], saved(folder)["agent"]["updates"]
    assert saved(folder)["agent"]["slow"]["updates"] == updates
    output = run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    assert saved(folder)["frames"] >= 4000
    assert saved(folder)["agent"]["updates"] == 2 + (saved(folder)["frames"] - 200) // 40 > updates
    assert saved(folder)["agent"]["slow"]["updates"] == saved(folder)["agent"]["updates"]
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


@pytest.mark.parametrize(("preset", "actions"), [("paper", 18), ("repo_atari", 6)])
def test_ten_choices_of_an_action_are_forty_frames(preset, actions):
    """Pong as the presets play it: ALE/Pong-v5 skips 4 frames by itself, and 4 times 4 would make 160 of them."""
    config = PRESETS[preset]
    stream = RowStream(make_vec_env(config.env, 1, seed=0, **config.env_options()))
    rows = stream.reset()
    assert rows["image"].shape == (1, 64, 64, 1), "frames are grey"
    assert rows["image"].dtype == np.uint8
    assert stream.action_size == actions
    for _ in range(10):
        rows = stream.step(np.eye(actions, dtype=np.float32)[[0]])
        assert stream.step_frames.tolist() == [4]
    assert (stream.agent_steps, stream.frames) == (10, 40)
    assert not rows["is_last"].any()
    stream.envs.close()


def test_games_that_time_cuts_off_are_no_true_ends():
    """After 80 frames, no-ops among them, is_last without is_terminal: there the discount head learns gamma."""
    config = PRESETS["paper"]
    stream = RowStream(make_vec_env(config.env, 1, seed=0, time_limit=80, **config.env_options()))
    rows = stream.reset()
    while not rows["is_last"].any():
        rows = stream.step(np.eye(18, dtype=np.float32)[[0]])
    assert stream.frames <= 80
    assert not rows["is_terminal"].any()
    stream.envs.close()


def test_the_readmes_commands_on_atari(tmp_path):
    """Train, evaluate, look, as the README has them, and everything small."""
    folder = tmp_path / "run"
    small = f"{SMALL} --prefill 1200 --train-every 50 --eval-every 1000000 --eval-episodes 1 --log-every 400"
    log = folder / "metrics.jsonl"
    line = f"train.py --env atari_pong --steps 3200 {small} --logdir {folder}"
    output = run(tmp_path / "1.txt", line)
    assert "preset: small" in output
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["preset"], config["grayscale"]) == ("atari_pong", "small", True)
    assert all(row["frames"] == 4 * row["step"] for row in read_metrics(log)), "each action is held for four frames"
    assert saved(folder)["agent"]["updates"] == 2 + (saved(folder)["frames"] - 1200) // 4 // 50
    assert {"world_model/cont_loss", "world_model/latent_perplexity"} <= set().union(*read_metrics(log))

    run(tmp_path / "2.txt", f"{FOLDER}/eval.py --checkpoint model.pt --episodes 1 --render --device cpu", folder)
    assert len(json.loads((folder / "eval.json").read_text())["returns"]) == 1
    assert len(imageio.mimread(folder / "videos" / "episode_0.mp4", memtest=False)) > 100
    line = f"{FOLDER}/visualize.py --checkpoint model.pt --num-dreams 2 --horizon 10 --device cpu"
    run(tmp_path / "3.txt", line, folder)
    assert (folder / "figures" / "learning_curve.png").stat().st_size > 1000
    assert (folder / "figures" / "predictions.png").exists()


def test_the_dmc_preset_plays_walker(tmp_path):
    """Two frames to an action, continuous ones, in colour; the actor learns through the dynamics."""
    folder = tmp_path / "run"
    small = f"{SMALL} --prefill 200 --train-every 20 --eval-every 1000000 --eval-episodes 1 --log-every 100"
    run(tmp_path / "1.txt", f"train.py --preset repo_dmc {small} --steps 400 --logdir {folder}")
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["actor_gradient"]) == ("dmc_walker_walk", "dynamics")
    log = read_metrics(folder / "metrics.jsonl")
    assert all(row["frames"] == 2 * row["step"] for row in log)
    assert saved(folder)["agent"]["updates"] == 2 + (saved(folder)["frames"] - 200) // 2 // 20
    assert "world_model/cont_loss" not in set().union(*log)


def test_the_readmes_comparison_of_latents(tmp_path):
    """Both are trained by their own process, and one figure is drawn; a second call finds them finished."""
    line = f"ablate.py --ablate gaussian --seeds 0 --steps 1100 --logdir {tmp_path / 'runs'}"
    output = run(tmp_path / "1.txt", line)
    assert "latent=gaussian" in output
    assert (tmp_path / "runs" / "gaussian.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "runs" / "gaussian.json").read_text())
    assert [len(each["policy/eval_return"]["values"]) for each in summary.values()] == [1, 1]
    assert run(tmp_path / "2.txt", line).count("finished before") == 2
