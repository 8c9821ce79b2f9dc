"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common import visualize
from common.agent import Rows
from common.metrics import class_counts
from common.plots import BLUE, GREY, ORANGE, saved_figure
from solutions.paper4_dreamerv3.agent import DreamerV3Agent
from solutions.paper4_dreamerv3.config import PAPER, RUNS, Config
from solutions.paper4_dreamerv3.world_model import log_probs


@torch.no_grad()
def latent_entropies(
    agent: DreamerV3Agent, rows: Rows
) -> tuple[Float[Tensor, " variables"], Float[Tensor, " variables"], Float[Tensor, " variables"]]:
    """Of each latent variable, in nats: mean entropy of the posterior and of the prior over the rows (B, T, ...), and
    the entropy of how often the posterior's likeliest class is which one, 0 where it never changes."""
    post, logits = agent.observe(rows)
    entropy = lambda probs: -torch.xlogy(probs, probs).sum(-1)
    mean = lambda logits: entropy(log_probs(logits, agent.config.unimix).exp()).mean((0, 1)).cpu()
    counts = class_counts(logits.argmax(-1), agent.config.classes)
    share = (counts / counts.sum(-1, keepdim=True)).cpu()
    return mean(logits), mean(agent.model.rssm.prior(post.deter)), entropy(share)


def draw_entropies(agent: DreamerV3Agent, rows: Rows, path: Path) -> Path:
    """What each latent variable leaves open before and after the frame is seen, and how many classes it uses."""
    posterior, prior, likeliest = (each.numpy() for each in latent_entropies(agent, rows))
    order = np.argsort(-prior)
    place, largest = np.arange(len(order)), math.log(agent.config.classes)
    with saved_figure(path, 9.6, 5.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        above.bar(place, prior[order], width=0.8, color=GREY, label="prior: not seen yet")
        above.bar(place, posterior[order], width=0.45, color=BLUE, label="posterior: seen")
        above.axhline(largest, color=ORANGE, linestyle="--", linewidth=1.2, label="pure chance")
        above.set_ylabel("entropy in nats")
        above.set_title(f"{len(order)} latent variables, {prior.sum():.1f} nats before and {posterior.sum():.1f} after")
        above.legend(loc="upper right", ncols=3)
        above.set_ylim(0, 1.25 * largest)
        below.bar(place, np.exp(likeliest[order]), width=0.8, color=BLUE)
        below.axhline(agent.config.classes, color=ORANGE, linestyle="--", linewidth=1.2)
        below.set_ylabel("classes in use (perplexity)")
        below.set_xlabel("latent variable, most uncertain prior first")
        figure.tight_layout()
    return path


def more(agent: DreamerV3Agent, episodes: list[Rows], folder: Path) -> list[Path]:
    """entropies.png."""
    shortest = min(len(rows["reward"]) for rows in episodes)
    rows = {key: np.stack([each[key][:shortest] for each in episodes]) for key in episodes[0]}
    return [draw_entropies(agent, rows, folder / "entropies.png")]


if __name__ == "__main__":
    visualize.main(DreamerV3Agent, Config, PAPER, RUNS, more=more)
