"""Rollouts as M sees them: V's posterior of every frame, in place of the frame."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from solutions.paper1_world_models.run import Run


@dataclass
class Latents:
    """Rollouts through V, one row behind the other, as float16 posteriors (as the official series.py keeps them)."""

    rows: dict[str, Tensor]  # mu, logvar, prev_action (native), reward, is_first, is_terminal, each (rows, ...)
    episodes: np.ndarray  # (episodes, 2): first row, number of rows

    def windows(self, starts: np.ndarray, ends: np.ndarray, length: int) -> dict[str, Tensor]:
        """Windows of `length` rows from `starts`; `mask` is False from row `ends` on, where the last repeats."""
        index = starts[:, None] + np.arange(length)
        mask = index < ends[:, None]
        index = torch.as_tensor(np.minimum(index, ends[:, None] - 1), device=self.rows["mu"].device)
        rows = {key: value[index] for key, value in self.rows.items()}
        rows["mu"], rows["logvar"] = rows["mu"].float(), rows["logvar"].float()
        return {**rows, "mask": torch.as_tensor(mask, device=rows["mu"].device)}

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Windows inside one rollout each, every start equally likely; a shorter rollout is padded."""
        first, count = self.episodes.T
        starts_in = np.maximum(count - length + 1, 1)  # how many windows each rollout has
        chosen = rng.choice(len(first), batch, p=starts_in / starts_in.sum())
        starts = first[chosen] + rng.integers(starts_in[chosen])
        return self.windows(starts, first[chosen] + count[chosen], length)

    def whole(self, most: int = 100) -> dict[str, Tensor]:
        """The first `most` rollouts whole, padded to the longest."""
        first, count = self.episodes[:most].T
        return self.windows(first, first + count, int(count.max()))


@torch.no_grad()
def encode(run: Run, episodes: np.ndarray) -> Latents:
    """Take rollouts through V once: M trains on V's posterior and never sees a frame."""
    keys = ("mu", "logvar", "prev_action", "reward", "is_first", "is_terminal")
    parts = []
    for stream, start, length, _ in tqdm(episodes.tolist(), desc="encode", unit=" rollouts"):
        rows = run.replay.windows(np.array([[stream, start]]), length)
        encoded = run.agent.encode(rows)
        parts.append({key: encoded[key][0] for key in keys})
    rows = {key: torch.cat([part[key] for part in parts]) for key in keys}
    rows["mu"], rows["logvar"] = rows["mu"].half(), rows["logvar"].half()
    count = episodes["length"]
    return Latents(rows, np.stack([np.cumsum(count) - count, count], 1))
