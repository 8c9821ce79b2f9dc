"""The commands of paper 4 as a user types them: Ctrl-C, kill -9, and the real environments of the README."""

import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from common.env_wrapper import RowStream, make_vec_env
from common.metrics import read_metrics
from paper4_dreamerv3 import train
from paper4_dreamerv3.config import PRESETS
from paper4_dreamerv3.replay import updates_due
from tests.commands import Commands
from tests.helpers import expect_close

pytestmark = pytest.mark.slow

COMMANDS = Commands(train)
FOLDER, run = COMMANDS.folder, COMMANDS.run
SMALL = (
    "--depth 2 --deter 16 --hidden 8 --stoch 3 --classes 4 --units 8 --bins 21 --batch 4 --length 6 --horizon 4 "
    "--imag-last 3 --warmup 2 --num-envs 4 --eval-episodes 2 --device cpu"
)
MICRO = f"--env TinyCatch-v0 --steps 2000 --replay-ratio 1 --eval-every 1000 --log-every 100 {SMALL}"
FIRST = 12 * 4  # rows when there are as many windows of 7 as a batch has rows
# train.py, with a checkpoint at every line of the log instead of every five minutes
SAVE_ALWAYS = f"import sys; from common import runner; from {COMMANDS.package} import train; runner.SAVE_SECONDS = 0; "
SAVE_ALWAYS += "train.main(sys.argv[1:])"


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def updates_of_rows(folder: Path, ratio: float) -> int:
    """What the replay ratio asks for, told by the rows that are saved."""
    replay = json.loads((folder / "replay" / "replay.json").read_text())
    return updates_due(replay["end"] * replay["streams"], FIRST, ratio, 24)


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
        command.until(lambda: (folder / "checkpoints" / "latest.pt").exists() and saved(folder)["frames"] > 400)
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    frames, before = saved(folder)["frames"], saved(folder)["agent"]
    assert before["optimizer"]["param_groups"][0]["steps"] == before["updates"] > 0
    output = run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    after = saved(folder)["agent"]
    assert saved(folder)["frames"] >= 2000
    assert after["updates"] == after["optimizer"]["param_groups"][0]["steps"] == updates_of_rows(folder, 1.0)
    assert after["updates"] > before["updates"]
    assert after["taken"] > before["taken"]
    resumed = [row for row in read_metrics(folder / "metrics.jsonl") if row["frames"] > frames]
    assert resumed[0]["frames"] <= frames + 200, "the resumed run goes on from the checkpoint"
    assert len(json.loads((folder / "sessions.json").read_text())) == 2


def test_ctrl_c_saves_and_the_command_it_prints_goes_on(tmp_path):
    folder = tmp_path / "run"
    with COMMANDS.start(tmp_path / "1.txt", f"train.py {MICRO} --logdir {folder}") as command:
        command.until(lambda: re.search(r"[1-9]\d{2,}/2000", command.output) is not None)
        os.killpg(command.process.pid, signal.SIGINT)
        command.wait()
        output = command.output
    assert "Traceback" not in output
    assert f"stopped; go on with --resume {folder}" in output
    assert saved(folder)["frames"] >= 100
    assert saved(folder)["agent"]["updates"] == updates_of_rows(folder, 1.0)
    run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert saved(folder)["frames"] >= 2000
    assert_log_is_whole(folder)


def test_minecraft_navigate_says_what_it_runs(tmp_path):
    """The built-in TinyCraft where MineRL is not installed: image and vector. The learner's three commands on it."""
    folder = tmp_path / "run"
    small = f"{SMALL} --replay-ratio 1 --eval-every 1000000 --log-every 100"
    output = run(tmp_path / "1.txt", f"train.py --env minecraft_navigate --steps 400 {small} --logdir {folder}")
    ran = config_of(folder)["env"]
    assert ran in ("TinyCraft-v0", "minecraft_navigate")
    if ran == "TinyCraft-v0":
        assert "minecraft_navigate runs as the built-in TinyCraft-v0" in output
        assert "preset: tiny" in output
    names = set().union(*read_metrics(folder / "metrics.jsonl"))
    assert {"world_model/recon_loss", "world_model/vector_loss"} <= names
    run(tmp_path / "2.txt", f"{FOLDER}/eval.py --checkpoint model.pt --episodes 2 --render --device cpu", folder)
    assert len(json.loads((folder / "eval.json").read_text())["returns"]) == 2
    assert len(imageio.mimread(folder / "videos" / "episode_0.mp4", memtest=False)) > 5
    line = f"{FOLDER}/visualize.py --checkpoint model.pt --num-dreams 2 --horizon 10 --device cpu"
    run(tmp_path / "3.txt", line, folder)
    for name in ("learning_curve", "predictions", "reconstructions", "imagination"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("env", "options", "frames_of_a_step", "loss"),
    [
        ("crafter_reward", "", 1, "recon"),
        ("atari_breakout", "", 4, "recon"),
        ("dmc_cartpole_balance", "--obs vector", 2, "vector"),
        ("CartPole-v1", "--obs vector", 1, "vector"),
        ("CartPole-v1", "--obs both", 1, "recon"),
    ],
)
def test_one_configuration_trains_on_every_domain(env, options, frames_of_a_step, loss, tmp_path):
    """Pictures and numbers, choices and forces: only the id and what is observed are told."""
    folder = tmp_path / "run"
    steps = 120 * frames_of_a_step
    small = f"{SMALL} --replay-ratio 1 --eval-every 1000000 --eval-episodes 1 --log-every {steps // 3}"
    line = f"train.py --env {env} {options} --steps {steps} {small} --logdir {folder}"
    log = folder / "metrics.jsonl"
    with COMMANDS.start(tmp_path / "1.txt", line) as command:
        command.until(lambda: log.exists() and any(f"world_model/{loss}_loss" in row for row in read_metrics(log)))
        assert "preset: small" in command.output
    assert config_of(folder)["env"] == env
    rows = read_metrics(log)
    assert all(row["frames"] == frames_of_a_step * row["step"] for row in rows)
    names = set().union(*rows)
    assert {"policy/actor_loss", "policy/replay_value_loss", "world_model/cont_loss"} <= names


def test_ten_choices_of_an_action_are_forty_frames():
    """Pong as the preset plays it: 64x64 in colour, all 18 actions, 4 frames to each. Cut off by time after 80 frames,
    the game has no true end."""
    config = PRESETS["paper"]
    stream = RowStream(make_vec_env(config.env, 1, seed=0, time_limit=80, **config.env_options()))
    rows = stream.reset()
    assert rows["image"].shape == (1, 64, 64, 3)
    assert stream.action_size == 18
    while not rows["is_last"].any():
        rows = stream.step(np.eye(18, dtype=np.float32)[[0]])
        assert rows["is_last"].any() or stream.frames == 4 * stream.agent_steps
    assert stream.frames <= 80
    assert not rows["is_terminal"].any()
    stream.envs.close()


# Without pytest, which checks shapes at every call: that cannot be compiled.
COMPARE = """
import importlib, json, sys
import numpy as np, torch
from gymnasium import spaces
agent, config = (importlib.import_module(f"{sys.argv[1]}.{name}") for name in ("agent", "config"))
small = {"deter": 16, "hidden": 8, "stoch": 3, "classes": 4, "units": 8, "bins": 21, "batch": 2, "length": 2}
small |= {"horizon": 2, "warmup": 0, "lr": 1e-2, "device": "cpu"}
space = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, (4,), np.float32))
make = lambda compile: agent.DreamerV3Agent(config.Config(**small, compile=compile), space, spaces.Discrete(3))
eager, compiled = make(False), make(True)
rng, results = np.random.default_rng(0), []
for update in range(3):
    rows = {"vector": rng.standard_normal((2, 3, 4)), "prev_action": np.eye(3)[rng.integers(3, size=(2, 3))]}
    rows = {key: value.astype(np.float32) for key, value in rows.items()}
    rows |= {"reward": rng.standard_normal((2, 3)).astype(np.float32)}
    rows |= {name: rng.random((2, 3)) < 0.3 for name in ("is_first", "is_terminal", "is_last")}
    rows |= {"deter": rng.uniform(-1, 1, (2, 3, 16)).astype(np.float16)}
    rows |= {"stoch": rng.integers(0, 4, (2, 3, 3)).astype(np.uint8)}
    noise = eager.draw_noise()
    results.append([{k: float(v) for k, v in each.update(rows, noise)[0].items()} for each in (eager, compiled)])
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print("RESULT", json.dumps({"graphs": graphs, "updates": results}))
"""


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler (g++, or CXX), and there is none",
)
def test_compiled_losses_are_the_same(tmp_path):
    """--compile: with the same noise the same metrics in three updates, each of which stands on the gradient of the one
    before; the losses are one graph."""
    output = run(tmp_path / "1.txt", f"-c {shlex.quote(COMPARE)} {COMMANDS.package}")
    result = json.loads(next(line for line in output.splitlines() if line.startswith("RESULT")).removeprefix("RESULT"))
    assert result["graphs"] == 1, "nothing is compiled, or it breaks into several graphs"
    for number, (eager, compiled) in enumerate(result["updates"]):
        assert eager.keys() == compiled.keys()
        losses = [name for name in eager if name.endswith(("loss", "return", "scale", "entropy", "grad_norm"))]
        assert len(losses) > 10
        for name in losses:
            what = f"{name} of update {number}, compiled"
            expect_close(compiled[name], eager[name], rtol=1e-4, atol=1e-4, what=what)
