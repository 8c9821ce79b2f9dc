"""Compare any runs: curves in one figure, a table of where they end, the seeds of one setting together.

python -m common.compare runs/ablations/*/ --figure comparison.png
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from common.errors import UserError, one_line_errors
from common.metrics import read_metrics
from common.plots import plot_panels
from common.run_folder import read_config, write_json

METRICS = ("policy/eval_return", "world_model/kl", "world_model/recon_error", "world_model/latent_use")
# Options that do not make another setting: chance, the machine, how long a run is and how often it is looked at.
APART = ("seed", "device", "steps", "eval_every", "eval_episodes", "log_every")


@dataclass
class Options:
    """Draw runs side by side."""

    runs: tyro.conf.Positional[list[Path]]
    """Run folders; runs whose options are the same, the seed aside, are seeds of one setting."""
    figure: Path = Path("comparison.png")
    """Where to draw; the table goes beside it, as .json."""
    metrics: tuple[str, ...] = METRICS
    """One panel for each, as the log names them."""


def settings(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """{name of a setting: its runs}, in the order given. A name is made of the options in which a run differs from the
    first one, whose own name is `baseline`. Raises UserError for a folder that is no run."""
    groups: dict[str, list[Path]] = {}
    for run in runs:
        if not (run / "config.json").exists():
            raise UserError(f"{run} holds no run (no config.json)")
    if not runs:
        raise UserError("name one run folder at least")
    first = read_config(runs[0])
    for run in runs:
        config = read_config(run)
        differs = [key for key in {**first, **config} if key not in APART and config.get(key) != first.get(key)]
        name = ", ".join(f"{key}={_short(config.get(key))}" for key in differs) or "baseline"
        groups.setdefault(name, []).append(run)
    return groups


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def mean_and_interval(values: Sequence[float]) -> dict[str, float | list[float] | None]:
    """Mean, the half-width of its 95% confidence interval (Student's t; None for a single seed), and the values."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else None
    return {"mean": float(np.mean(values)), "ci95": half, "values": [float(value) for value in values]}


def compare(runs: Sequence[Path], figure: Path, metrics: Sequence[str] = METRICS) -> dict:
    """Draw the figure; returns {setting: {metric: what `mean_and_interval` gives of each seed's last value}}, which is
    also written beside the figure. All runs are looked at as far as the shortest goes."""
    logs = {name: [read_metrics(run / "metrics.jsonl") for run in group] for name, group in settings(runs).items()}
    shortest = min(log[-1]["frames"] for seeds in logs.values() for log in seeds if log)
    logs = {name: [[row for row in log if row["frames"] <= shortest] for log in seeds] for name, seeds in logs.items()}
    summary = {}
    for name, seeds in logs.items():
        last = {metric: [row[-1] for log in seeds if (row := values_of(log, metric))] for metric in metrics}
        summary[name] = {metric: mean_and_interval(values) for metric, values in last.items() if values}
        summary[name]["frames"] = [log[-1]["frames"] for log in seeds if log]
    plot_panels(logs, figure, [metric for metric in metrics if any(metric in one for one in summary.values())])
    write_json(figure.with_suffix(".json"), summary)
    return summary


def values_of(log: list[dict[str, float]], metric: str) -> list[float]:
    """All that was logged of a metric."""
    return [row[metric] for row in log if metric in row]


def report(summary: dict, figure: Path) -> None:
    """Print the table of a comparison, and where its figure is."""
    metrics = list(dict.fromkeys(key for each in summary.values() for key in each if key != "frames"))
    table = Table("setting", "seeds", *(metric.rsplit("/", 1)[-1] for metric in metrics))
    for name, each in summary.items():
        table.add_row(name, str(len(each["frames"])), *(_cell(each.get(metric)) for metric in metrics))
    Console().print(table)
    print(f"last values, mean ± 95% confidence over seeds; {figure}, {figure.with_suffix('.json')}")


def _cell(value: dict | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4g}" + (f" ± {value['ci95']:.2g}" if value["ci95"] is not None else "")


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    report(compare(options.runs, options.figure, options.metrics), options.figure)


if __name__ == "__main__":
    main()
