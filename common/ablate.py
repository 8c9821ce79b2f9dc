"""Main of every ablate.py: train variants of an agent on the same seeds, and compare them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.compare import compare, report
from common.env_wrapper import resolve_id
from common.errors import UserError, one_line_errors
from common.metrics import read_metrics
from common.run_folder import read_config

Ablations = Mapping[str, tuple[str, ...]]  # name -> the options of train.py that make it


@dataclass
class Options:
    """Train variants of the agent, the unchanged one first, on the same seeds; draw their curves in one figure."""

    ablate: str
    """Names of variants, with commas between them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    env: str | None = None
    preset: str = "tiny"
    steps: int | None = None
    """Environment frames; without it the preset's."""
    jobs: int = 2
    """Trainings at a time, each with its share of the cores."""
    logdir: Path = Path("runs/ablations")
    """Folder of the run folders; given again, what is finished is kept, and what was broken off goes on."""


@one_line_errors
def main(train: Path, ablations: Ablations, argv: list[str] | None = None) -> None:
    """train: the paper's train.py."""
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    names = options.ablate.split(",")
    for name in names:
        if name not in ablations:
            raise UserError(f"there is no ablation {name!r}; there are: {', '.join(ablations)}")
    variants = {"baseline": (), **{name: ablations[name] for name in names}}
    runs = {
        options.logdir / f"{name}-seed{seed}": command(options, variant, seed)
        for name, variant in variants.items()
        for seed in options.seeds
    }
    train_all(train, runs, options.jobs)
    figure = options.logdir / f"{'-'.join(names)}.png"
    report(compare(list(runs), figure), figure)


def command(options: Options, variant: tuple[str, ...], seed: int) -> list[str]:
    """The options of train.py for one training."""
    words = ["--preset", options.preset, "--seed", str(seed), *variant]
    words += ["--env", options.env] if options.env else []
    return words + (["--steps", str(options.steps)] if options.steps else [])


def train_all(train: Path, runs: Mapping[Path, list[str]], jobs: int) -> None:
    """Train {run folder: options of train.py}, `jobs` at a time. What is finished is kept, what was broken off goes on.

    Raises UserError for a folder that holds a run with other options, and after Ctrl-C or when a training fails; what
    has not begun by then stays undone.
    """
    if jobs < 1 or not runs:
        raise UserError("--jobs must be 1 or more, and there must be a seed and something to train")
    for folder, words in runs.items():
        check_options(folder, words)
    with ThreadPoolExecutor(jobs) as pool:
        done = [pool.submit(train_one, train, folder, words, jobs) for folder, words in runs.items()]
        try:
            for each in done:
                each.result()
        except KeyboardInterrupt:
            raise UserError("stopped; the same command goes on") from None
        finally:
            pool.shutdown(cancel_futures=True)


def train_one(train: Path, folder: Path, words: list[str], jobs: int) -> None:
    """Start a training, or go on with it, in a process of its own; its output goes to a file beside the folder."""
    if finished(folder):
        print(f"{folder}: finished before")
        return
    place = ["--resume", str(folder)] if (folder / "checkpoints").exists() else [*words, "--logdir", str(folder)]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    print(f"{folder}: {' '.join(place)}")
    with log.open("ab") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.run([sys.executable, train, *place], stdout=output, stderr=output, env=environment)
    if process.returncode or not finished(folder):
        raise UserError(f"{folder} did not finish, see {log}; the same command goes on with it")


def check_options(folder: Path, words: list[str]) -> None:
    """Raise UserError where a folder holds a run that other options than `words` began, or that is to be shorter."""
    if not (folder / "config.json").exists():
        return
    config = read_config(folder)
    for place, word in enumerate(words):
        name = word.removeprefix("--").replace("-", "_")
        following = words[place + 1] if place + 1 < len(words) else "--"
        if not word.startswith("--"):
            continue
        if following.startswith("--"):  # a flag
            name, wanted = name.removeprefix("no_"), str(not name.startswith("no_"))
        else:
            wanted = following
        if name == "steps" and config["steps"] >= int(wanted):
            continue  # a longer run holds the shorter one
        if name in config and _plain(name, str(config[name])) != _plain(name, wanted):
            raise UserError(f"{folder} holds a run with {name} {config[name]}, not {wanted}: take another --logdir")


def _plain(name: str, text: str) -> float | str:
    """An option's value such that equal ones compare equal: a number as such, an id as what it stands for."""
    with contextlib.suppress(ValueError):
        return float(text)
    if name == "env":
        with contextlib.suppress(UserError):
            return resolve_id(text)
    return text


def finished(folder: Path) -> bool:
    """Whether a run has played all its frames and been evaluated."""
    log = folder / "metrics.jsonl"
    rows = read_metrics(log) if log.exists() else []
    return bool(rows) and rows[-1]["frames"] >= read_config(folder)["steps"] and "policy/eval_return" in rows[-1]
