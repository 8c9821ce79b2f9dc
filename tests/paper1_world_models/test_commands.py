"""The commands of paper 1 as a user types them: several processes, Ctrl-C, kill -9, and the real environments."""

import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from common.metrics import read_metrics
from paper1_world_models import train
from tests.commands import Commands

pytestmark = pytest.mark.slow

COMMANDS = Commands(train)
FOLDER, run = COMMANDS.folder, COMMANDS.run
MICRO = (
    "--env TinyRacer-v0 --steps 6000 --max-episode-steps 20 --epochs 2 --rnn-passes 2 --vae-depth 4 --vae-batch 128 "
    "--rnn-batch 8 --hidden-size 16 --sequence-length 16 --generations 20 --popsize 4 --episodes-per-candidate 1 "
    "--eval-every 8 --eval-episodes 3 --workers 1 --device cpu"
)
# train.py, with a checkpoint after every update instead of every minute
SAVE_ALWAYS = f"import sys; from {COMMANDS.package} import run, train; run.SAVE_SECONDS = 0; train.main(sys.argv[1:])"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    agent = torch.load(folder / "model.pt", weights_only=True)["agent"]
    return {"controller": agent["controller"], **agent["vae"], **{f"rnn.{k}": v for k, v in agent["rnn"].items()}}


def assert_log_is_whole(folder: Path) -> None:
    """Steps rise: nothing is logged twice, nothing falls back; all stages are there."""
    log = read_metrics(folder / "metrics.jsonl")
    steps = [row["step"] for row in log]
    assert steps == sorted(set(steps))
    assert [row["frames"] for row in log] == sorted(row["frames"] for row in log)
    names = set().union(*log)
    assert {"world_model/recon_loss", "world_model/nll_loss", "policy/episode_return"} <= names


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "output.txt", f"train.py {MICRO} --logdir {folder}/run")
    return folder / "run"


@pytest.mark.parametrize("stage", ["collect", "V", "C"])
def test_kill_minus_9_and_resume(stage, uninterrupted, tmp_path):
    """Wherever the power fails, the resumed run ends as if it had not."""
    folder = tmp_path / "run"
    begun = {"collect": "replay/replay.json", "V": "checkpoints/vae.pt", "C": "checkpoints/controller.pt"}[stage]
    beyond = {"collect": "checkpoints/vae.pt", "V": "checkpoints/rnn.pt", "C": None}[stage]
    with COMMANDS.start(tmp_path / "1.txt", f"-c {shlex.quote(SAVE_ALWAYS)} {MICRO} --logdir {folder}") as command:
        command.until((folder / begun).exists)
        os.kill(command.process.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        assert "trained agent" not in command.output
    assert beyond is None or not (folder / beyond).exists(), "the stage was over when it was killed"

    output = run(tmp_path / "2.txt", f"train.py --resume {folder}")
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    last, expected = (read_metrics(f / "metrics.jsonl")[-1] for f in (folder, uninterrupted))
    for name in ("step", "frames", "policy/episode_return", "policy/eval_return", "policy/sigma"):
        assert last[name] == expected[name], name
    ours, theirs = weights(folder), weights(uninterrupted)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_ctrl_c_saves_and_the_command_it_prints_goes_on(tmp_path):
    folder = tmp_path / "run"
    with COMMANDS.start(tmp_path / "1.txt", f"train.py {MICRO} --logdir {folder}") as command:
        command.until(lambda: re.search(r"V: +\d+%.*recon=", command.output) is not None)
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal sends it: to all processes of the group
        assert command.wait() == 130
        output = command.output
    assert "Traceback" not in output
    assert "stopping at the next safe place" in output
    saved = max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    done = torch.load(saved, weights_only=True)["step"]
    assert done > 0
    message = re.search(r"stopped and saved; go on with: python (train.py --resume .*)", output)
    output = run(tmp_path / "2.txt", message[1])
    assert f"trained agent: {folder / 'model.pt'}" in output
    assert_log_is_whole(folder)
    bar = re.search(rf"{'V' if saved.name == 'vae.pt' else 'M'}: +\d+%\|[^|]*\| (\d+)/", output)
    assert int(bar[1]) > 0, "it began again"


def test_a_finished_run_keeps_its_controller_and_can_be_extended(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    before = weights(folder)
    assert before["controller"].abs().max() > 0
    run(tmp_path / "1.txt", f"train.py --resume {folder}")
    after = weights(folder)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    steps = read_metrics(folder / "metrics.jsonl")[-1]["step"]
    run(tmp_path / "2.txt", f"train.py --resume {folder} --generations 22")
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == steps + 2
    assert_log_is_whole(folder)


# ---- real environments ----


def alive(pid: int) -> bool:
    """Whether a process still does anything: one that nobody has waited for yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")
def test_kill_minus_9_leaves_no_worker_behind(tmp_path):
    options = "--env CarRacing-v3 --steps 300000 --max-episode-steps 40 --vae-depth 4 --workers 2 --device cpu"
    with COMMANDS.start(tmp_path / "1.txt", f"train.py {options} --logdir {tmp_path}/run") as command:
        command.until(lambda: re.search(r"collect: .*[1-9]\d*/300000", command.output) is not None)
        workers = children(command.process.pid)
        assert len(workers) >= 2
        os.kill(command.process.pid, signal.SIGKILL)
        command.wait()
        end = time.monotonic() + 20
        while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
            time.sleep(0.1)
        assert left == []


def gif_length(path: Path) -> int:
    return len(imageio.mimread(path))


def test_the_readmes_commands_on_car_racing(tmp_path):
    """Train, evaluate, look: as the README has them, and everything small."""
    small = "--steps 2000 --generations 1 --popsize 2 --episodes-per-candidate 1 --eval-episodes 2 --vae-depth 4"
    small += " --max-episode-steps 30 --vae-batch 32 --rnn-passes 1 --rnn-batch 8 --hidden-size 16 --device cpu"
    folder = tmp_path / "run"
    output = run(tmp_path / "1.txt", f"train.py --env CarRacing-v2 --epochs 10 {small} --logdir {folder}")
    assert "CarRacing-v2 is no longer part of gymnasium: running CarRacing-v3" in output
    assert "preset: small" in output
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["preset"], config["epochs"]) == ("CarRacing-v3", "small", 10)
    assert_log_is_whole(folder)
    log = read_metrics(folder / "metrics.jsonl")
    assert log[0]["frames"] >= 2000

    # `model.pt` is looked for here first, so that these run in the run folder
    line = f"{FOLDER}/eval.py --checkpoint model.pt --episodes 2 --render --device cpu"
    output = run(tmp_path / "2.txt", line, folder)
    result = json.loads((folder / "eval.json").read_text())
    assert f"{result['agent']['mean']:.2f} +- {result['agent']['std']:.2f} (standard deviation, n = 2)" in output
    assert result["agent"]["mean"] == pytest.approx(np.mean(result["returns"]))
    for i in range(2):
        assert len(imageio.mimread(folder / "videos" / f"episode_{i}.mp4")) > 10

    line = f"{FOLDER}/visualize.py --checkpoint model.pt --num-dreams 2 --horizon 10 --device cpu"
    run(tmp_path / "3.txt", line, folder)
    for name in ("reconstructions", "latents", "imagination", "predictions", "learning_curve"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
    for name, most in (("dream_0", 11), ("dream_1", 11), ("predictions", 15)):  # the real start; a context of 5
        assert 1 < gif_length(folder / "videos" / f"{name}.gif") <= most


def test_the_takecover_preset_trains_in_the_dream(tmp_path):
    small = (
        "--steps 800 --max-episode-steps 40 --vae-depth 4 --latent-size 8 --hidden-size 16 --epochs 1 --vae-batch 32"
    )
    small += " --sequence-length 16 --rnn-batch 8 --generations 2 --popsize 4 --episodes-per-candidate 2"
    small += " --eval-every 1 --eval-episodes 2 --workers 1 --device cpu"
    folder = tmp_path / "run"
    before = set(FOLDER.iterdir())
    run(tmp_path / "1.txt", f"train.py --preset takecover {small} --logdir {folder}")
    assert set(FOLDER.iterdir()) - before <= {FOLDER / "__pycache__", FOLDER / "runs"}  # ViZDoom writes where it starts
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["preset"], config["dream"]) == ("VizdoomTakeCover-v1", "takecover", True)
    assert_log_is_whole(folder)
    policy = [row for row in read_metrics(folder / "metrics.jsonl") if "policy/episode_return" in row]
    assert len(policy) == 2
    for row in policy:
        assert 1 <= row["policy/episode_return"] <= 40  # one for each dreamt step, of 40 at most
        assert 1 <= row["policy/eval_return"] <= 40  # one for each step in the real TakeCover
    # V 8 frames, M takes z, the number of the action and the restart flag, C sees [z, c, h] and has no bias
    assert weights(folder)["controller"].shape == (8 + 2 * 16,)
    assert weights(folder)["rnn.lstm.weight_ih_l0"].shape == (4 * 16, 8 + 1 + 1)
