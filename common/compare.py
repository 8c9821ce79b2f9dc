"""Compare any runs: curves in one figure, a table of where they end, the seeds of one setting together.

python -m common.compare runs/ablations/*/ --figure comparison.png
python -m common.compare solutions/results/paper*/TinyCatch-v0 --figure comparison.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from common.checkpoint import load_checkpoint
from common.errors import UserError, one_line_errors
from common.metrics import read_metrics
from common.plots import Log, plot_panels
from common.run_folder import read_config, write_json

METRICS = ("policy/eval_return", "world_model/kl", "world_model/recon_error", "world_model/latent_use")
COSTS = ("wall_seconds", "efficiency/seconds_per_step", "efficiency/memory_mib", "efficiency/parameters")
# Options that do not make another setting: chance, the machine, how long a run is and how often it is looked at.
APART = ("seed", "device", "threads", "steps", "eval_every", "eval_episodes", "log_every")


@dataclass
class Options:
    """Draw runs side by side."""

    runs: tyro.conf.Positional[list[Path]]
    """Run folders, or folders of solutions/results; runs whose options are the same but the seed are one setting."""
    figure: Path = Path("comparison.png")
    """Where to draw; the table goes beside it, as .json."""
    metrics: tuple[str, ...] = METRICS
    """One panel for each, as the log names them."""
    whole: bool = False
    """Look at every run to its own end, not as far as the shortest goes."""


def read_run(folder: Path) -> tuple[dict, list[Log]]:
    """(options with the paper among them, logs) of a run folder: one log; or of a folder of solutions/results: one for
    each seed. Raises UserError for any other folder."""
    if (folder / "config.json").exists():
        model = folder / "model.pt"
        paper = load_checkpoint(model)["paper"] if model.exists() else ""
        return read_config(folder) | {"paper": paper}, [read_metrics(folder / "metrics.jsonl")]
    if (folder / "result.json").exists():
        config = json.loads((folder / "result.json").read_text())["config"]
        logs = [read_metrics(path) for path in sorted(folder.glob("metrics_seed*.jsonl"))]
        return config | {"paper": folder.parent.name}, logs
    raise UserError(f"{folder} holds no run (no config.json) and no results")


def settings(runs: Mapping[Path, dict]) -> dict[str, list[Path]]:
    """{name of a setting: its runs}, in the order given, of {run: its options}. A name is made of the options in which
    a run differs from the first one, whose own name is `baseline`; where there are several papers, it begins with the
    paper's, and the first run is that paper's first."""
    groups: dict[str, list[Path]] = {}
    firsts: dict[str, dict] = {}
    for config in runs.values():
        firsts.setdefault(config.get("paper", ""), config)
    for run, config in runs.items():
        paper = config.get("paper", "")
        first = firsts[paper]
        differs = [key for key in {**first, **config} if key not in APART and config.get(key) != first.get(key)]
        name = ", ".join(f"{key}={_short(config.get(key))}" for key in differs)
        if len(firsts) > 1:
            name = f"{paper}: {name}" if name else paper
        groups.setdefault(name or "baseline", []).append(run)
    return groups


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def mean_and_interval(values: Sequence[float]) -> dict[str, float | list[float] | None]:
    """Mean, the half-width of its 95% confidence interval (Student's t; None for a single seed), and the values."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else None
    return {"mean": float(np.mean(values)), "ci95": half, "values": [float(value) for value in values]}


def compare(runs: Sequence[Path], figure: Path, metrics: Sequence[str] = METRICS, whole: bool = False) -> dict:
    """Draw the figure; returns {setting: {metric: what `mean_and_interval` gives of each seed's last value}}, of these
    metrics and of the costs, which is also written beside the figure. All runs are looked at as far as the shortest
    goes, or, `whole`, each to its own end. Raises UserError for folders that hold no run."""
    if not runs:
        raise UserError("name one run folder at least")
    read = {run: read_run(run) for run in runs}
    groups = settings({run: config for run, (config, _) in read.items()})
    logs = {name: [log for run in group for log in read[run][1]] for name, group in groups.items()}
    ends = [log[-1]["frames"] for seeds in logs.values() for log in seeds if log]
    shortest = max(ends) if whole else min(ends)
    logs = {name: [[row for row in log if row["frames"] <= shortest] for log in seeds] for name, seeds in logs.items()}
    summary = {}
    for name, seeds in logs.items():
        last = {metric: [row[-1] for log in seeds if (row := values_of(log, metric))] for metric in (*metrics, *COSTS)}
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
    table = Table("", *summary)
    table.add_row("seeds", *(str(len(each["frames"])) for each in summary.values()))
    table.add_row("frames", *(f"{max(each['frames']):,}" for each in summary.values()))
    for metric in metrics:
        table.add_row(metric.rsplit("/", 1)[-1], *(_cell(each.get(metric)) for each in summary.values()))
    Console().print(table)
    print(f"last values, mean ± 95% confidence over seeds; {figure}, {figure.with_suffix('.json')}")


def _cell(value: dict | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4g}" + (f" ± {value['ci95']:.2g}" if value["ci95"] is not None else "")


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    report(compare(options.runs, options.figure, options.metrics, options.whole), options.figure)


if __name__ == "__main__":
    main()
