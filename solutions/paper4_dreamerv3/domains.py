"""One configuration, many domains: python domains.py --seeds 0 1 2

Trains the preset tiny on five environments; makes one table and one figure. Only frames and sizes may differ.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from common.ablate import train_all
from common.compare import mean_and_interval
from common.errors import UserError, one_line_errors
from common.metrics import read_metrics
from common.plots import plot_domains
from common.run_folder import write_json
from common.tiny_envs import SCORES, Score

TRAIN = Path(__file__).with_name("train.py")
DOMAINS = {  # environment -> its frames
    "TinyCatch-v0": 18_000,  # pixels; buttons
    "TinyReacher-v0": 18_000,  # pixels; two numbers
    "TinyRacer-v0": 18_000,  # pixels; two numbers; every road is new
    "TinyCraft-v0": 60_000,  # pixels and a vector; buttons; every map is new
    "CartPole-v1": 18_000,  # a vector; buttons
}
# Networks twice as wide: as in the paper, the size may differ.
SIZES = {"TinyCraft-v0": ("--deter", "256", "--hidden", "128", "--units", "128", "--classes", "16")}
# CartPole: the mean of 1000 random episodes, seeds 0..999, and as much as its time limit allows.
KNOWN = SCORES | {"CartPole-v1": Score(random=22.6, optimal=500.0)}


@dataclass
class Options:
    """Train one configuration on many domains, and show how well it does in each. Frames and, as in the paper, the
    size of the networks may differ: see DOMAINS and SIZES."""

    domains: tuple[str, ...] = tuple(DOMAINS)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    """Environment frames; without it each domain's own."""
    jobs: int = 2
    """Trainings at a time, each with its share of the cores."""
    logdir: Path = Path("runs/domains")
    """Folder of the run folders; given again, what is finished is kept, and what was broken off goes on."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps must be positive, got {options.steps}")
    for env_id in options.domains:
        if env_id not in DOMAINS:
            raise UserError(f"{env_id} is none of the domains: {', '.join(DOMAINS)}")
    folders = {
        (env_id, seed): options.logdir / f"{env_id}-seed{seed}" for env_id in options.domains for seed in options.seeds
    }
    runs = {
        folder: [
            *("--preset", "tiny", "--env", env_id, "--seed", str(seed)),
            *("--steps", str(options.steps or DOMAINS[env_id]), *SIZES.get(env_id, ())),
        ]
        for (env_id, seed), folder in folders.items()
    }
    train_all(TRAIN, runs, options.jobs)
    read = lambda env_id, seed: read_metrics(folders[env_id, seed] / "metrics.jsonl")
    logs = {env_id: [read(env_id, seed) for seed in options.seeds] for env_id in options.domains}
    figure = plot_domains(logs, KNOWN, options.logdir / "domains.png")
    summary = {env_id: summarise(env_id, each) for env_id, each in logs.items()}
    write_json(figure.with_suffix(".json"), summary)
    report(summary)
    print(f"{figure}, {figure.with_suffix('.json')}")


def summarise(env_id: str, logs: list[list[dict]]) -> dict:
    """Frames, and return and score of every seed's last evaluation, whose episodes were never trained on."""
    known = KNOWN[env_id]
    returns = [log[-1]["policy/eval_return"] for log in logs]
    return {
        "frames": [log[-1]["frames"] for log in logs],
        "seconds": [log[-1]["wall_seconds"] for log in logs],
        "random": known.random,
        "optimal": known.optimal,
        "return": mean_and_interval(returns),
        "score": mean_and_interval([known.normalise(each) for each in returns]),
    }


def report(summary: dict) -> None:
    """Print the table."""
    table = Table("environment", "frames", "random", "optimal", "return", "score", "of each seed")
    for env_id, each in summary.items():
        seeds = " ".join(f"{value:.2f}" for value in each["score"]["values"])
        numbers = [f"{each['random']:.2f}", f"{each['optimal']:.2f}", f"{each['return']['mean']:.2f}"]
        frames = " ".join(f"{value:,}" for value in sorted(set(each["frames"])))
        table.add_row(env_id, frames, *numbers, f"{each['score']['mean']:.2f}", seeds)
    Console().print(table)
    print("score: 0 is random, 1 near-optimal; each seed's last evaluation")


if __name__ == "__main__":
    main()
