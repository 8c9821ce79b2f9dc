"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8

from common import visualize
from common.agent import Rows, dream
from common.plots import evenly, plot_comparison, saved_figure
from paper5_iris.agent import IRISAgent
from paper5_iris.config import PAPER, RUNS, Config

TEMPERATURES = (0.5, 1.0, 1.5)


def draw_tokens(
    image: UInt8[np.ndarray, "frames height width channels"],
    tokens: Int[np.ndarray, "frames side side"],
    drawn: UInt8[np.ndarray, "frames height width channels"],
    path: Path,
) -> Path:
    """Frames, the words that they are told in, each where it stands, and the pictures that the words make."""
    count, side = len(image), tokens.shape[1]
    words, place = np.unique(tokens, return_inverse=True)
    with saved_figure(path, 1.9 * count, 6.2) as figure:
        axes = figure.subplots(3, count, squeeze=False)
        figure.suptitle(f"What the tokenizer keeps: {len(words)} words, in {count} frames of {side * side} tokens")
        for k in range(count):
            axes[0, k].imshow(image[k])
            axes[1, k].imshow(place.reshape(tokens.shape)[k], cmap="tab20", vmin=0, vmax=max(len(words) - 1, 1))
            for row, column in np.ndindex(side, side):
                axes[1, k].text(column, row, tokens[k, row, column], ha="center", va="center", fontsize=8)
            axes[2, k].imshow(drawn[k])
        for line, name in zip(axes, ("frame", "tokens", "reconstruction"), strict=True):
            line[0].set_ylabel(name)
            for each in line:
                each.set(xticks=[], yticks=[])
                each.grid(False)
        figure.tight_layout()
    return path


def more(agent: IRISAgent, episodes: list[Rows], folder: Path) -> list[Path]:
    """tokens.png; and temperatures.png, one start dreamed on three times, each dream with another temperature."""
    rows = max(episodes, key=lambda each: len(each["reward"]))
    image = rows["image"][evenly(len(rows["reward"]), 8)]
    tokens = agent.tokens(image).unflatten(1, (agent.tokenizer.side, -1)).cpu().numpy()
    written = [draw_tokens(image, tokens, agent.reconstruct({"image": image[None]})[0], folder / "tokens.png")]
    start = {key: value[None, :1] for key, value in rows.items()}
    strips, captions = {}, {}
    for temperature in TEMPERATURES:
        torch.manual_seed(0)
        imagined = dream(agent, start, 12, temperature=temperature)
        name, ends = f"temperature {temperature:g}", imagined.conts[0] < 0.5
        strips[name] = np.concatenate([start["image"][0], imagined.images[0]])
        told = [f"{reward:+g}" + " end" * bool(end) for reward, end in zip(imagined.rewards[0], ends, strict=True)]
        captions[name] = ["real", *told]
    title = "One start (framed), dreamed on three times (under each frame the predicted reward)"
    return [*written, plot_comparison(strips, folder / "temperatures.png", title, captions=captions, framed=1)]


if __name__ == "__main__":
    visualize.main(IRISAgent, Config, PAPER, RUNS, more=more)
