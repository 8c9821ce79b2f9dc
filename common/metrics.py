"""Every number that a run logs: its name, how it is computed, and the logger that writes it down."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import SupportsFloat

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal, kl_divergence
from tqdm import tqdm

from common.errors import UserError
from common.health import Health
from common.video import to_rgb, write_video

# The names that all five papers share; a paper may log more (world_model/commitment_loss, ...).
# Return against environment steps, the sample efficiency, is policy/episode_return over the log's `frames`.
METRICS = {
    "world_model/loss": "what the world model minimises",
    "world_model/recon_loss": "reconstruction loss of a frame, as the paper defines it",
    "world_model/recon_error": "mean squared error per pixel, in [0, 1], comparable between papers",
    "world_model/heldout_recon_loss": "the same on rollouts that the model never trained on",
    "world_model/kl": "KL from the posterior (or encoder) to the prior, in nats per frame",
    "world_model/nll_loss": "negative log likelihood of the next latent, in nats per dimension (World Models)",
    "world_model/rnn_loss": "what M minimises: nll_loss and the losses of its heads (World Models)",
    "world_model/heldout_nll": "nll_loss on rollouts that the model never trained on",
    "world_model/heldout_nll_gaussian": "the same for a baseline: one Gaussian for each dimension, always",
    "world_model/heldout_nll_copy": "the same for a baseline: a Gaussian around the last latent",
    "world_model/reward_loss": "loss of the predicted reward, as the paper defines it",
    "world_model/reward_error": "mean absolute error of the predicted reward",
    "world_model/reward_sign_accuracy": "how often a reward below, at or above 0 is predicted so, balanced",
    "world_model/cont_loss": "loss of the predicted continuation, weighed as the world model's loss does",
    "world_model/cont_accuracy": "how often an episode's end, and its going on, are predicted, balanced",
    "world_model/vector_loss": "the same of a vector that is observed, state or proprioception",
    "world_model/kl_loss": "the KL as the world model's loss has it: never below the free nats, scaled",
    "world_model/dyn_loss": "the part of the KL that moves the prior, never below the free nats (DreamerV3)",
    "world_model/rep_loss": "the part of the KL that moves the posterior, never below the free nats (DreamerV3)",
    "world_model/posterior_entropy": "entropy of a state's posterior in nats, all variables together",
    "world_model/prior_entropy": "entropy of a state's prior in nats, all variables together",
    "world_model/latent_use": "fraction of the latent dimensions (or classes of a code) in use",
    "world_model/latent_perplexity": "how many classes of a code are in use, weighted by how often",
    "world_model/end_accuracy": "fraction of the ends that are recognised where they are seen (DreamerV3)",
    "world_model/grad_norm": "norm of the world model's gradient before clipping",
    "policy/episode_return": "sum of rewards of the episodes that ended while training, exploration and all",
    "policy/episode_length": "agent steps of the same episodes",
    "policy/eval_return": "sum of rewards of evaluation episodes, without exploration",
    "policy/eval_return_std": "standard deviation of the same episodes",
    "policy/population_best": "highest return of a candidate in its generation (World Models)",
    "policy/population_std": "standard deviation of the candidates' returns (World Models)",
    "policy/sigma": "step size of the search for a controller (World Models)",
    "policy/actor_loss": "what the actor minimises",
    "policy/value_loss": "what the critic minimises",
    "policy/imagined_return": "return that imagination promises, mean over its states",
    "policy/value_error": "mean absolute difference of the value and the discounted return that followed",
    "policy/value_bias": "mean difference of the same: above 0 the value promises too much",
    "policy/value_explained_variance": "1 is a perfect value, 0 is no better than a constant",
    "policy/replay_value_loss": "the critic's loss on what was really done (DreamerV3)",
    "policy/return_scale": "what advantages are divided by (DreamerV3)",
    "policy/advantage": "mean absolute advantage, divided by that scale (DreamerV3)",
    "policy/weight": "how much an imagined step counts, mean over the steps (DreamerV3)",
    "policy/entropy": "entropy of the policy in nats",
    "policy/randomness": "the same between the least (0) and the most (1) that the policy can have (DreamerV3)",
    "policy/grad_norm": "norm of the actor's gradient before clipping",
    "policy/value_grad_norm": "norm of the critic's gradient before clipping",
    "efficiency/seconds_per_step": "time per agent step, learning included, evaluation not",
    "efficiency/seconds_per_update": "time per update, drawing its batch included",
    "efficiency/replay_ratio": "rows trained on for each row played since training began (DreamerV3)",
    "efficiency/memory_mib": "the most main memory that the process has held",
    "efficiency/gpu_memory_mib": "the most GPU memory that tensors have held",
    "efficiency/parameters": "numbers in all networks",
}


class Logger:
    """Writes `metrics.jsonl`, TensorBoard events, `figures/` and `videos/` of one run folder.

    `step` counts agent steps or updates, and never falls within a run; `frames` counts environment frames.
    Opened on a folder that has a log, it continues it, `wall_seconds` too: a line that `kill -9` left
    half-written is cut off, and so are the lines after `resume_step` (what a run did after its last
    checkpoint, and will now do again).
    """

    def __init__(self, directory: str | Path, *, tensorboard: bool = True, resume_step: int | None = None):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "metrics.jsonl"
        kept = _cut(path, resume_step) if path.exists() else []
        earlier = kept[-1]["wall_seconds"] if kept else 0.0
        self._start = time.monotonic() - earlier
        self._health = Health()
        for row in kept:  # what was said before the run broke off need not be said again
            self._health.look(row)
        self._file = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always wanted

            purge_step = None if resume_step is None else resume_step + 1
            self._board = SummaryWriter(str(self.directory), purge_step=purge_step)

    @property
    def wall_seconds(self) -> float:
        """Time this run has taken so far, the pieces before a resume included."""
        return time.monotonic() - self._start

    def log(self, metrics: Mapping[str, SupportsFloat], *, step: int, frames: int) -> None:
        """Add one line; values may be numbers, numpy scalars or tensors of one element. Prints the warnings of
        common/health.py."""
        values = {name: float(value) for name, value in metrics.items()}
        row = {"step": int(step), "frames": int(frames), "wall_seconds": round(self.wall_seconds, 3)}
        # JSON has no nan and inf: they are written as strings, and read_metrics turns them back.
        row |= {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        for warning in self._health.look(values):
            tqdm.write(warning, file=sys.stderr)  # without cutting a progress bar in two

    def image(self, name: str, array: UInt8[np.ndarray, "H W C"], step: int) -> Path:
        """Write an image to `figures/<name>_<step>.png` and to TensorBoard; returns the file's path."""
        path = self.directory / "figures" / f"{name.replace('/', '_')}_{step:09d}.png"
        path.parent.mkdir(exist_ok=True)
        imageio.imwrite(path, to_rgb(array))
        if self._board:
            self._board.add_image(name, to_rgb(array), step, dataformats="HWC")
        return path

    def video(self, name: str, frames: UInt8[np.ndarray, "T H W C"], step: int, fps: float = 20) -> Path:
        """Write a video to `videos/<name>_<step>.gif` and to TensorBoard; returns the file's path."""
        path = self.directory / "videos" / f"{name.replace('/', '_')}_{step:09d}.gif"
        write_video(path, frames, fps)
        if self._board:
            self._add_gif(name, path, step)
        return path

    def _add_gif(self, name: str, path: Path, step: int) -> None:
        # SummaryWriter.add_video wants moviepy; TensorBoard plays an image whose bytes are a GIF.
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = imageio.imread(path).shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, oldest first; a last line without its line end is left out.

    Raises UserError when there is no such file, or when a whole line is not JSON.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read the metrics '{path}': {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise UserError(f"line {number} of '{path}' is not JSON: the file was changed by hand?") from None
        rows.append({name: float(value) if isinstance(value, str) else value for name, value in row.items()})
    return rows


def _cut(path: Path, resume_step: int | None) -> list[dict[str, float]]:
    """Cut off a half-written last line and all lines after `resume_step`; returns the lines kept."""
    kept = list(takewhile(lambda row: resume_step is None or row["step"] <= resume_step, read_metrics(path)))
    lines = path.read_bytes().splitlines(keepends=True)[: len(kept)]
    os.truncate(path, sum(map(len, lines)))
    return kept


def check_finite(metrics: Mapping[str, SupportsFloat], what: str) -> None:
    """Stop a run whose loss has become nan or inf, before it is saved over the last good checkpoint.

    Looks at the losses and KLs (a diagnostic such as the explained variance may be undefined); `what` says
    where the run stands, such as "step 120". Raises UserError naming the first that is not finite.
    """
    for name, value in metrics.items():
        is_loss = name.endswith("loss") or name.rsplit("/", 1)[-1].startswith("kl")
        if is_loss and not math.isfinite(value):
            raise UserError(
                f"{name} is {float(value)} at {what}: training stops here, the last good checkpoint is kept. "
                "Usual causes: a learning rate too high, no gradient clipping, log or division of zero"
            )


# --- World model -------------------------------------------------------------------------------------------


def reconstruction_error(
    recon: Num[Tensor | np.ndarray, "*shape"], image: Num[Tensor | np.ndarray, "*shape"]
) -> Float[Tensor, ""]:
    """Mean squared error per pixel and channel, on the scale [0, 1]: uint8 is divided by 255, float not."""
    recon, image = (x.float() / 255 if x.dtype == torch.uint8 else x for x in map(torch.as_tensor, (recon, image)))
    if recon.shape != image.shape:  # broadcasting would give a number, and a wrong one
        raise ValueError(f"cannot compare images of shapes {tuple(recon.shape)} and {tuple(image.shape)}")
    return (recon - image).square().mean()


def kl_gaussian(
    post_mean: Float[Tensor, "*batch dim"],
    post_std: Float[Tensor, "*batch dim"],
    prior_mean: Float[Tensor, "*#batch dim"],
    prior_std: Float[Tensor, "*#batch dim"],
) -> Float[Tensor, "*batch dim"]:
    """KL(posterior || prior) of diagonal Gaussians in nats, per dimension; the state's KL is their sum."""
    post = Normal(post_mean, post_std, validate_args=False)
    return kl_divergence(post, Normal(prior_mean, prior_std, validate_args=False))


def kl_categorical(
    post_logits: Float[Tensor, "*batch variables classes"],
    prior_logits: Float[Tensor, "*batch variables classes"],
) -> Float[Tensor, "*batch variables"]:
    """KL(posterior || prior) in nats, per categorical variable; the state's KL is their sum."""
    post = Categorical(logits=post_logits, validate_args=False)
    return kl_divergence(post, Categorical(logits=prior_logits, validate_args=False))


def reward_accuracy(
    predicted: Float[Tensor, "*batch"], reward: Float[Tensor, "*batch"], zero: float = 0.05
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(mean absolute error, balanced accuracy of the sign) of predicted rewards.

    A reward within `zero` of 0 counts as 0. Balanced, because where nearly all rewards are 0 a model that has
    learned nothing is nearly always right.
    """
    sign = lambda x: torch.where(x.abs() <= zero, 0, x.sign())
    return (predicted - reward).abs().mean(), _balanced_accuracy(sign(predicted), sign(reward), (-1, 0, 1))


def continue_accuracy(cont_prob: Float[Tensor, "*batch"], is_terminal: Bool[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Balanced accuracy of the predicted continuation: ends are rare, and count as much as all the rest."""
    return _balanced_accuracy(cont_prob > 0.5, ~is_terminal, (False, True))


def _balanced_accuracy(predicted: Tensor, true: Tensor, classes: Iterable) -> Float[Tensor, ""]:
    """Mean over the classes that occur of the fraction of their members found."""
    recalls = [(predicted == c)[true == c].float().mean() for c in classes if (true == c).any()]
    return torch.stack(recalls).mean()


def active_units(post_mean: Float[Tensor, "*batch dim"], threshold: float = 0.01) -> Bool[Tensor, " dim"]:
    """Which dimensions of a Gaussian latent say something about the observation; the mean is latent_use.

    Those whose posterior mean varies over the batch: Var_x(E[z | x]) > 0.01 (Burda et al. 2016, section 5.2).
    """
    return post_mean.flatten(0, -2).var(0, correction=0) > threshold


def informative_units(kl: Float[Tensor, "*batch dim"], threshold: float = 0.01) -> Bool[Tensor, " dim"]:
    """Which dimensions tell more than the prior knew: mean of `kl_gaussian` over the batch above 0.01 nats.

    Against a fixed N(0, I) these are the `active_units`; against a learned prior a dimension that
    is in use and well predicted is not informative.
    """
    return kl.flatten(0, -2).mean(0) > threshold


def class_counts(classes: Int[Tensor, "*batch variables"], num_classes: int) -> Int[Tensor, "variables num_classes"]:
    """How often each class of each variable occurs. A codebook that all tokens share is one variable:
    `class_counts(tokens.reshape(-1, 1), num_classes)`."""
    one_hot = nn.functional.one_hot(classes.flatten(0, -2).long(), num_classes)
    return one_hot.sum(0)


def categorical_use(
    counts: Int[Tensor, "variables num_classes"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(fraction of the classes in use, perplexity), means over the variables of `class_counts`.

    Perplexity, exp(entropy), is 1 where all falls on one class and num_classes where all occur equally often.
    """
    probs = counts / counts.sum(-1, keepdim=True)
    entropy = -torch.xlogy(probs, probs).sum(-1)
    return (counts > 0).float().mean(), entropy.exp().mean()


# --- Policy ------------------------------------------------------------------------------------------------

Rows = dict[str, np.ndarray]  # as played: (T,) for one environment, (B, T) for several


def episode_returns(rows: Rows) -> list[float]:
    """Sum of rewards of each episode that the rows hold whole, from its is_first to its is_last."""
    reward = np.atleast_2d(rows["reward"])
    return [float(reward[b, start : stop + 1].sum()) for b, start, stop in _episodes(rows)]


def episode_lengths(rows: Rows) -> list[int]:
    """Agent steps of the same episodes: one less than the rows, as nobody acted to get to the first."""
    return [stop - start for _, start, stop in _episodes(rows)]


def _episodes(rows: Rows) -> Iterator[tuple[int, int, int]]:
    """(environment, first row, last row) of every whole episode."""
    is_first, is_last = np.atleast_2d(rows["is_first"]), np.atleast_2d(rows["is_last"])
    for b, (firsts, lasts) in enumerate(zip(is_first, is_last, strict=True)):
        start = None
        for t, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            if first:
                start = t
            if last and start is not None:
                yield b, start, t


def value_accuracy(value: Float[np.ndarray, "*batch T"], rows: Rows, discount: float) -> dict[str, float]:
    """Mean absolute error, bias and explained variance of values against the discounted returns that followed, under
    the names of the log.

    The return of row t sums the rewards received after it, from row t + 1 to the end of its episode. Where
    the end is not seen (truncation, end of the rows) the value of the last row stands in for the rest.
    Explained variance is 1 - Var(return - value) / Var(return), and left out where all returns are the same.
    """
    value, reward, is_terminal, is_last = (
        np.atleast_2d(x) for x in (value, rows["reward"], rows["is_terminal"], rows["is_last"])
    )
    ret = np.where(is_terminal, 0, value).astype(np.float64)  # what a row that nothing follows is worth
    for t in reversed(range(value.shape[1] - 1)):
        follows = reward[:, t + 1] + discount * ret[:, t + 1]
        ret[:, t] = np.where(is_last[:, t], ret[:, t], follows)
    scored = ~is_last[:, :-1]  # the last row of an episode has no return of its own
    ret, value = ret[:, :-1][scored], value[:, :-1][scored]
    metrics = {"policy/value_error": np.abs(value - ret).mean(), "policy/value_bias": (value - ret).mean()}
    if ret.var() > 0:
        metrics["policy/value_explained_variance"] = 1 - (ret - value).var() / ret.var()
    return {name: float(each) for name, each in metrics.items()}


def policy_entropy(policy: Distribution, samples: int = 100) -> Float[Tensor, ""]:
    """Mean entropy in nats, from samples where there is no formula, as for a tanh-squashed Gaussian."""
    try:
        return policy.entropy().mean()
    except NotImplementedError:
        return -policy.log_prob(policy.sample((samples,))).mean()


def grad_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """L2 norm of all gradients taken as one vector; parameters without a gradient count as zero."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


# --- Efficiency --------------------------------------------------------------------------------------------


class Timer:
    """Times a block, `with timer: ...`: `mean_seconds` over all blocks, `recent_seconds` over the last few.

    A GPU works on after the call returns: the mean of many steps is right, a single step's time is not.
    """

    def __init__(self, smoothing: float = 0.9):
        self.smoothing = smoothing
        self.count = 0
        self.total_seconds = 0.0
        self.recent_seconds = math.nan

    @property
    def mean_seconds(self) -> float:
        return self.total_seconds / self.count if self.count else math.nan

    def __enter__(self) -> "Timer":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        seconds = time.perf_counter() - self._start
        old = self.recent_seconds if self.count else seconds
        self.recent_seconds = self.smoothing * old + (1 - self.smoothing) * seconds
        self.total_seconds += seconds
        self.count += 1


def peak_memory_mib() -> float:
    """The most main memory this process has held, in MiB; nan on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def peak_gpu_memory_mib() -> float:
    """The most GPU memory that tensors have held, in MiB; 0 without CUDA."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def model_size(module: nn.Module) -> tuple[int, float]:
    """(number of parameters, their MiB); a parameter that two layers share counts once."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters) / 2**20
