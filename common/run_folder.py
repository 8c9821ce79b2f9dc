"""Run folders: one for each training, named by time, never shared by two runs."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import torch

from common.errors import UserError
from common.safe_write import atomic_file


def open_run(config, runs: Path) -> Path:
    """The folder of this run, with its config.json: the one to resume, else a new one.

    Raises UserError for an explicit --logdir that already holds a run, and for a --resume that names none.
    """
    if config.resume:
        folder = find_run(config.resume, runs)
    elif config.logdir:
        folder = config.logdir
        if (folder / "config.json").exists():
            raise UserError(
                f"{folder} already holds a run: continue it with --resume {folder}, or name another --logdir"
            )
        folder.mkdir(parents=True, exist_ok=True)
    else:
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = new_folder(runs / f"{now}-{config.env.replace('/', '-')}-{config.preset}-{config.seed}")
    write_json(folder / "sessions.json", [*read_sessions(folder), session()])
    write_json(folder / "config.json", config_to_dict(config))
    print(f"run folder: {folder}")
    return folder


def new_folder(path: Path) -> Path:
    """Make the folder `path`; where another run took that name, in the same second, path-2, path-3, ..."""
    folder, number = path, 1
    while True:
        try:
            folder.mkdir(parents=True)  # it is mkdir that decides who was first: no two processes get the same folder
            return folder
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")


def write_json(path: Path, value) -> None:
    """Write a JSON file in one stroke."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def session() -> dict[str, str]:
    """What a number needs beside it to be trusted: the command, when, on what, and of which code."""
    try:
        describe = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        commit = ""
    # A run's name is enough: the folders around it are this machine's.
    words = [Path(word).name if before == "--resume" else word for before, word in pairwise(sys.argv)]
    return {
        "command": " ".join(["python", Path(sys.argv[0]).name, *without(words, "logdir")]),
        "started": datetime.now().isoformat(timespec="milliseconds"),
        "hardware": hardware(),
        "commit": commit,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def without(argv: list[str], *names: str) -> list[str]:
    """The words without these options and their values."""
    rest, skip = [], False
    for word in argv:
        if skip or any(word.startswith(f"--{name}=") for name in names):
            skip = False
        elif word in {f"--{name}" for name in names}:
            skip = True
        else:
            rest.append(word)
    return rest


def hardware() -> str:
    """The processor, its number of cores, and the GPU where there is one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{gpu}"


def config_to_dict(config) -> dict:
    """What a config says about the training, not about where it is kept: for config.json and checkpoints."""
    return {key: value for key, value in asdict(config).items() if key not in ("logdir", "resume")}


def config_from_dict(cls: type, values: dict):
    """The other way round, whatever json made of tuples; keys that this version does not know are left out."""
    known = {field.name for field in fields(cls)}
    as_it_was = lambda value: tuple(value) if isinstance(value, list) else value
    return cls(**{key: as_it_was(value) for key, value in values.items() if key in known})


def find_run(name: str, runs: Path) -> Path:
    """A run folder by path, or the newest under `runs` for `latest`."""
    folders = sorted((path.parent for path in runs.glob("*/config.json")), key=started)
    if name == "latest":
        if not folders:
            raise UserError(f"there is no run to resume in {runs}")
        return folders[-1]
    for folder in (Path(name), runs / name):
        if (folder / "config.json").exists():
            return folder
    raise UserError(f"{name} holds no run (no config.json); runs in {runs}: {[f.name for f in folders[-5:]]}")


def started(folder: Path) -> tuple[str, str]:
    """When a run began: runs sort by it."""
    sessions = read_sessions(folder)
    return (sessions[0]["started"] if sessions else "", folder.name)


def read_config(folder: Path) -> dict:
    """The config of an earlier run, as plain values."""
    return json.loads((folder / "config.json").read_text())


def read_sessions(folder: Path) -> list[dict[str, str]]:
    """The `session` of every time the run was started or resumed."""
    path = folder / "sessions.json"
    return json.loads(path.read_text()) if path.exists() else []
