"""The figures: what a model keeps of its images, what it dreams, how far it predicts reality, curves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from common.agent import Agent, Rows, dream
from common.errors import UserError
from common.metrics import categorical_use, reconstruction_error
from common.tiny_envs import Score
from common.video import enlarge, error_frames, frame_grid

BLUE, ORANGE, GREY = "#1f6fb4", "#e8710a", "#8a8f98"
COLOURS = [BLUE, ORANGE, "#2a9d4a", "#c2342f", "#7b52ab", "#8c564b", "#d45f9f", "#5f6670"]
STYLE = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "legend.frameon": False,
}
DPI = 100


@contextmanager
def saved_figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, saved to `path` at the end; without pyplot, which keeps global state."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, facecolor="white")


# --- Rows of frames ----------------------------------------------------------------------------------------


def visualize_vae(agent: Agent, batch: Rows, path: str | Path, num_samples: int = 10) -> Path:
    """Images of a batch of sequences (B, T, ...), picked evenly, above their reconstructions."""
    images, recon = (x.reshape(-1, *x.shape[2:]) for x in (batch["image"], agent.reconstruct(batch)))
    picked = evenly(len(images), num_samples)
    error = float(reconstruction_error(recon, images))
    title = f"Reconstructions (mean squared error per pixel {error:.4f})"
    return plot_comparison({"original": images[picked], "reconstruction": recon[picked]}, path, title)


def visualize_imagination(
    agent: Agent, context: Rows, path: str | Path, horizon: int = 15, num_dreams: int = 5
) -> Path:
    """Dreams of the agent's own policy, one a row: the last real frame (framed), then what it imagines.

    Dream d starts where sequence d of `context` (B, T, ...) ends; where there are fewer, they take turns.
    Under each frame stands its predicted reward; what comes after a predicted end is faded.
    """
    starts = np.arange(num_dreams) % len(context["image"])
    context = {name: values[starts] for name, values in context.items()}
    imagined = dream(agent, context, horizon)
    end = imagined.conts < 0.5
    over = np.cumsum(end, axis=1) - end > 0  # what follows the first predicted end
    faded = 255 - (255 - imagined.images) // 4
    images = np.where(over[:, :, None, None, None], faded, imagined.images)
    images = np.concatenate([context["image"][:, -1:], images], axis=1)
    reward_text = lambda d, k: f"{imagined.rewards[d, k]:+.2f}" + (" end" if end[d, k] else "")
    rows, captions = {}, {}
    for d in range(num_dreams):
        rows[f"dream {d + 1}"] = images[d]
        under = ["" if over[d, k] else reward_text(d, k) for k in range(horizon)]
        captions[f"dream {d + 1}"] = ["real", *under]
    title = "What the agent imagines (under each frame the predicted reward)"
    return plot_comparison(rows, path, title, captions=captions, framed=1)


class Prediction(NamedTuple):
    """What a model saw coming, step by step; errors are squared, means over pixels and over the sequences.

    What follows the start of another episode is left out of them (nan where nothing is left).
    """

    images: UInt8[np.ndarray, "B horizon H W C"]
    mse: Float[np.ndarray, " horizon"]
    copy_mse: Float[np.ndarray, " horizon"]  # of a baseline: always the last frame seen
    same_episode: Bool[np.ndarray, "B horizon"]


def predict(agent: Agent, rows: Rows, context: int = 5) -> Prediction:
    """Hold the model against reality: it sees `context` of the rows (B, T, ...), then only the actions really taken.

    It dreams at a low temperature: a sample would be wrong even where the model is right about the odds.
    """
    truth = rows["image"]
    if not 0 < context < truth.shape[1]:
        raise ValueError(f"{truth.shape[1]} rows: context must be from 1 to {truth.shape[1] - 1}, not {context}")
    seen = {name: values[:, :context] for name, values in rows.items()}
    # The action taken at row t stands in row t + 1, as its prev_action.
    actions = rows["prev_action"][:, context:]
    predicted = dream(agent, seen, truth.shape[1] - context, actions=actions, temperature=0.01).images
    copied = np.broadcast_to(truth[:, context - 1 : context], predicted.shape)
    same_episode = np.cumsum(rows["is_first"][:, context:], axis=1) == 0
    over_sequences = lambda errors: np.ma.array(errors, mask=~same_episode).mean(0).filled(np.nan)
    mse, copy_mse = (over_sequences(_frame_errors(truth[:, context:], images)) for images in (predicted, copied))
    return Prediction(predicted, mse, copy_mse, same_episode)


def compare_predictions(
    agent: Agent, rows: Rows, path: str | Path, context: int = 5, max_columns: int = 16
) -> tuple[Path, Float[np.ndarray, " horizon"]]:
    """Reality against the model, which sees `context` rows, then only the actions that were really taken.

    `rows` (B, T, ...) with T > context. The figure shows the sequence that goes on longest: truth, model
    (in the framed context: reconstructions) and |truth - model|. Returns its path and the mean squared error
    per pixel of each step of the prediction, over all sequences; what follows the start of another episode is
    left out (nan where nothing is left).
    """
    truth = rows["image"]
    predicted, mse, copy_mse, same_episode = predict(agent, rows, context)
    seen = {name: values[:, :context] for name, values in rows.items()}
    model = np.concatenate([agent.reconstruct(seen), predicted], axis=1)
    errors = _frame_errors(truth, model)

    b = int(same_episode.sum(1).argmax())
    end = context + int(same_episode[b].sum())
    stride = -(-end // max_columns)
    shown = np.arange((context - 1) % stride, end, stride)  # the last frame seen is always among them
    plot_comparison(
        {
            "truth": truth[b, shown],
            "model": model[b, shown],
            "error": error_frames(truth[b, shown], model[b, shown]),
        },
        path,
        f"Prediction from {context} frames and the actions really taken: mean squared error {_mean(mse)}\n"
        f"(always predicting the last frame seen: {_mean(copy_mse)})",
        captions={"error": [f"{error:.4f}" for error in errors[b, shown]]},
        headers=[f"t = {t}" for t in shown],
        framed=int((shown < context).sum()),
    )
    return Path(path), mse


def _frame_errors(a: UInt8[np.ndarray, "B T H W C"], b: UInt8[np.ndarray, "B T H W C"]) -> Float[np.ndarray, "B T"]:
    """Mean squared error per pixel of each frame, pixels in [0, 1]."""
    return np.square(error_frames(a, b) / 255).mean((2, 3, 4))


def _mean(errors: Float[np.ndarray, " horizon"]) -> str:
    known = errors[~np.isnan(errors)]
    return f"{known.mean():.4f}" if len(known) else "unknown"


def plot_comparison(
    rows: dict[str, UInt8[np.ndarray, "N H W C"]],
    path: str | Path,
    title: str,
    *,
    captions: dict[str, Sequence[str]] | None = None,
    headers: Sequence[str] = (),
    framed: int = 0,
) -> Path:
    """Labelled rows of N frames: `captions` under the frames of a row, `headers` above the columns, and a
    coloured border around the first `framed` frames."""
    captions = captions or {}
    count, height, width = next(iter(rows.values())).shape[:3]
    # Everything is laid out in pixels of the file, so that the pixels of a frame stay square and sharp.
    scale = max(1, 128 // height)
    height, width = height * scale, width * scale
    gap, line, left, right = 8, 20, 24 + 8 * max(map(len, rows)), 16
    top = 42 + line * title.count("\n") + (line if headers else 0)
    strip_width = count * (width + gap) - gap
    page_width = max(left + strip_width + right, 800)
    page_height = top + sum(height + gap + (line if name in captions else 0) for name in rows) + gap
    with saved_figure(path, page_width / DPI, page_height / DPI) as figure:
        figure.text(left / page_width, 1 - 12 / page_height, title, va="top", fontsize=12)
        bottom = page_height - top
        for index, (name, frames) in enumerate(rows.items()):
            bottom -= height
            box = (left / page_width, bottom / page_height, strip_width / page_width, height / page_height)
            axes = figure.add_axes(box)
            strip = frame_grid(enlarge(frames, scale)[None], gap)
            axes.imshow(strip, interpolation="nearest", aspect="auto")
            axes.axis("off")
            axes.text(-12, height / 2, name, ha="right", va="center", fontsize=11)
            for column in range(count):
                x = column * (width + gap)
                if column < framed:
                    corner, style = (x - 2.5, -2.5), {"fill": False, "ec": ORANGE, "lw": 2.5}
                    axes.add_patch(Rectangle(corner, width + 4, height + 4, clip_on=False, **style))
                write = partial(axes.text, x + width / 2, ha="center", fontsize=9)
                if name in captions:
                    write(height + 6, captions[name][column], va="top")
                if headers and index == 0:
                    write(-8, headers[column], va="bottom")
            bottom -= gap + (line if name in captions else 0)
    return Path(path)


def evenly(length: int, count: int) -> Int[np.ndarray, " shown"]:
    """At most `count` of the indices 0 ... length - 1, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))


# --- Curves and latents ------------------------------------------------------------------------------------

Log = list[dict[str, float]]  # one run, as read_metrics gives it


def plot_curves(
    runs: dict[str, list[Log] | Log],
    path: str | Path,
    x: str = "frames",
    y: str = "policy/episode_return",
    smoothing: float = 0.0,
    baselines: dict[str, float] | None = None,
) -> Path:
    """Curves of `y` over `x`, one for each label: mean and standard deviation over the label's seeds.

    Points are what was logged; line and band reach as far as all seeds have data. `smoothing` in [0, 1) is
    the weight of the past in a moving average along each seed. `baselines` (random, optimal) are dashed.
    Raises UserError when no run has logged `y`.
    """
    with saved_figure(path, 7.2, 4.4) as figure:
        axes = figure.add_subplot()
        _plot_runs(axes, runs, x, y, smoothing)
        _plot_baselines(axes, baselines or {})
        axes.legend()
        figure.tight_layout()
    return Path(path)


def plot_panels(runs: dict[str, list[Log] | Log], path: str | Path, ys: Sequence[str], x: str = "frames") -> Path:
    """As `plot_curves`, one panel for each of `ys`, two beside each other, and one legend below them all."""
    rows = -(-len(ys) // 2)
    with saved_figure(path, 10.4, 3.4 * rows + 0.4 * (1 + len(runs) // 3)) as figure:
        panels = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes, y in zip(panels, ys, strict=False):
            _plot_runs(axes, runs, x, y)
            if y.endswith("error"):
                axes.set_yscale("log")
        for axes in panels[len(ys) :]:
            axes.remove()
        lines, labels = panels[0].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0.04 + 0.03 * (len(labels) // 3), 1, 1))
        figure.legend(lines, labels, loc="lower center", ncols=3)
    return Path(path)


def plot_domains(
    runs: dict[str, list[Log]], baselines: Mapping[str, Score], path: str | Path, y: str = "policy/eval_return"
) -> Path:
    """One panel for each environment: mean and standard deviation over its seeds, between random and optimal."""
    rows = -(-len(runs) // 3)
    with saved_figure(path, 12.6, 3.2 * rows) as figure:
        panels = figure.subplots(rows, 3, squeeze=False).flatten()
        for axes, (env_id, logs) in zip(panels, runs.items(), strict=False):
            _plot_runs(axes, {env_id: logs}, "frames", y)
            _plot_baselines(axes, baselines[env_id]._asdict())
            axes.set_title(f"{env_id}, {len(logs)} seeds")
        for axes in panels[len(runs) :]:
            axes.remove()
        figure.tight_layout()
    return Path(path)


def _plot_baselines(axes: Axes, baselines: dict[str, float]) -> None:
    """Dashed lines, named at the right."""
    for name, value in baselines.items():
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.2)
        axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", color=GREY)


def _plot_runs(axes: Axes, runs: dict[str, list[Log] | Log], x: str, y: str, smoothing: float = 0.0) -> None:
    """The curves of one set of axes; UserError when no run has logged `y`."""
    runs = {label: [logs] if logs and isinstance(logs[0], dict) else logs for label, logs in runs.items()}
    curves = {label: [c for log in logs if len((c := _curve(log, x, y))[0])] for label, logs in runs.items()}
    if not any(curves.values()):
        raise UserError(f"nothing to plot: no run has logged '{y}' with '{x}'")
    for index, (label, seeds) in enumerate(curves.items()):
        if seeds:
            name = f"{label} ({len(seeds)} seeds)" if len(seeds) > 1 else label
            _plot_seeds(axes, seeds, smoothing, COLOURS[index % len(COLOURS)], name)
    axes.set_xlabel({"frames": "environment frames", "wall_seconds": "seconds"}.get(x, x))
    axes.set_ylabel(y.rsplit("/", 1)[-1].replace("_", " "))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 400k, 1M


def _curve(log: Log, x: str, y: str) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The points of one run, where both numbers were logged and are finite."""
    points = np.array([(row[x], row[y]) for row in log if x in row and y in row], float).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[:, 0], points[:, 1]


def _plot_seeds(axes: Axes, seeds: list[tuple], smoothing: float, colour: str, label: str) -> None:
    for xs, ys in seeds:
        axes.plot(xs, ys, ".", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
    start, stop = max(xs[0] for xs, _ in seeds), min(xs[-1] for xs, _ in seeds)
    # Seeds log at different frames: read all of them off at all these places, where every one has data.
    places = np.unique(np.concatenate([xs for xs, _ in seeds]))
    places = places[(start <= places) & (places <= stop)]
    values = np.stack([np.interp(places, xs, _smooth(ys, smoothing)) for xs, ys in seeds])
    mean, std = values.mean(0), values.std(0)
    axes.plot(places, mean, color=colour, linewidth=2, label=label)
    if len(seeds) > 1:
        axes.fill_between(places, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)


def _smooth(values: Float[np.ndarray, " n"], weight: float) -> Float[np.ndarray, " n"]:
    """Moving average in which the past weighs `weight`, without the usual bias towards its start at zero."""
    total, mass, out = 0.0, 0.0, []
    for value in values:
        total = weight * total + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        out.append(total / mass)
    return np.array(out)


def plot_codebook(counts: Int[np.ndarray, "*variables classes"], path: str | Path) -> Path:
    """How often each class of a code occurs: bars for one codebook (N,), a map for several variables (V, N).

    Counts as `metrics.class_counts` gives them.
    """
    counts = np.atleast_2d(np.asarray(counts))
    variables, classes = counts.shape
    use, perplexity = categorical_use(torch.as_tensor(counts))
    share = counts / counts.sum(1, keepdims=True)
    with saved_figure(path, 7.2, 3.6 if variables == 1 else 4.4) as figure:
        axes = figure.add_subplot()
        what = f"{classes} classes" if variables == 1 else f"{variables} x {classes} classes"
        axes.set_title(f"{float(use):.0%} of {what} in use, perplexity {float(perplexity):.1f}")
        if variables == 1:
            axes.bar(np.arange(classes), np.sort(share[0])[::-1], width=1.0, color=BLUE)
            axes.axhline(1 / classes, color=GREY, linestyle="--", linewidth=1.2, label="all equally often")
            axes.set_yscale("log")
            axes.set_xlabel("class, most frequent first")
            axes.set_ylabel("share of all tokens")
            axes.margins(x=0.01)
            axes.legend()
        else:
            axes.grid(False)
            image = axes.imshow(share, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
            axes.set_xlabel("class")
            axes.set_ylabel("latent variable")
            figure.colorbar(image, ax=axes, label="share", pad=0.02)
        figure.tight_layout()
    return Path(path)


def plot_latent_use(kl: Float[np.ndarray, " dim"], path: str | Path, threshold: float = 0.01) -> Path:
    """Bars of the mean KL of each latent dimension, in nats, largest first; grey up to `threshold`: idle."""
    kl = np.sort(np.asarray(kl, float))[::-1]
    with saved_figure(path, 7.2, 3.6) as figure:
        axes = figure.add_subplot()
        axes.set_title(f"{(kl > threshold).sum()} of {len(kl)} latent dimensions carry more than {threshold} nats")
        axes.bar(np.arange(len(kl)), kl, width=0.8, color=np.where(kl > threshold, BLUE, GREY))
        axes.axhline(threshold, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set_yscale("log")
        axes.set_ylim(bottom=threshold / 10)
        axes.set_xlabel("latent dimension, largest KL first")
        axes.set_ylabel("KL in nats")
        axes.margins(x=0.01)
        figure.tight_layout()
    return Path(path)
