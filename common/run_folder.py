"""Run folders: one for each training, named by time, never shared by two runs."""

import json
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path

from common.checkpoint import atomic_file
from common.errors import UserError


def open_run(config, runs: Path) -> Path:
    """The folder of this run, with its config.json: the one to resume, else a new one.

    Raises UserError for an explicit --logdir that already holds a run, and for a --resume that names none.
    """
    if config.resume:
        folder = find_run(config.resume, runs)
    else:
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = config.logdir or runs / f"{now}-{config.env.replace('/', '-')}-{config.preset}-{config.seed}"
        if (folder / "config.json").exists():
            raise UserError(
                f"{folder} already holds a run: continue it with --resume {folder}, or name another --logdir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "config.json") as file:
        file.write((json.dumps(config_to_dict(config), indent=2) + "\n").encode())
    print(f"run folder: {folder}")
    return folder


def config_to_dict(config) -> dict:
    """A config as plain numbers and strings, for config.json and checkpoints."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}


def config_from_dict(cls: type, values: dict):
    """The other way round; keys that this version does not know are left out."""
    known = {field.name for field in fields(cls)}
    return cls(**{key: value for key, value in values.items() if key in known})


def find_run(name: str, runs: Path) -> Path:
    """A run folder by path, or the newest under `runs` for `latest`."""
    folders = sorted(path.parent for path in runs.glob("*/config.json"))
    if name == "latest":
        if not folders:
            raise UserError(f"there is no run to resume in {runs}")
        return folders[-1]
    for folder in (Path(name), runs / name):
        if (folder / "config.json").exists():
            return folder
    raise UserError(f"{name} holds no run (no config.json); runs in {runs}: {[f.name for f in folders[-5:]]}")


def read_config(folder: Path) -> dict:
    """The config of an earlier run, as plain values."""
    return json.loads((folder / "config.json").read_text())
