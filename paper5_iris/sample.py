"""Imagined trajectories: python sample.py --checkpoint model.pt --count 5 --horizon 20

The world that a policy lives in while it learns; as a command, it writes some of its dreams to a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.agent import load_agent
from common.checkpoint import find_checkpoint
from common.config import pick_device
from common.errors import UserError, one_line_errors
from common.safe_write import atomic_file
from common.video import write_video
from common.visualize import real_episodes
from paper5_iris.actor_critic import ActorCritic, State
from paper5_iris.config import PAPER, RUNS, Config
from paper5_iris.tokenizer import to_image
from paper5_iris.transformer import KVCache, WorldModel


def sample(logits: Float[Tensor, "*batch classes"], temperature: float = 1.0) -> Int[Tensor, "*batch"]:
    """A class of softmax(logits / temperature)."""
    gumbel = -torch.empty_like(logits).exponential_().log()
    return (logits / temperature + gumbel).argmax(-1)


class Imagined(NamedTuple):
    """What follows an action."""

    tokens: Int[Tensor, "batch places"] | None  # of the next frame; None where it was not asked for
    reward: Float[Tensor, " batch"]  # -1, 0 or 1
    end: Bool[Tensor, " batch"]


class ImaginedWorld:
    """The world model, played like an environment; what it has read is kept in `caches`, one for each layer."""

    def __init__(self, model: WorldModel, caches: list[KVCache] | None = None):
        self.model, self.caches = model, caches

    @torch.no_grad()
    def reset(self, ids: Int[Tensor, "batch new"]) -> None:
        """Begin with a frame's tokens and nothing before, or with frames and actions by turns, a frame at the end."""
        self.caches = self.model.caches(len(ids))
        self.model(ids, self.caches)

    @torch.no_grad()
    def step(
        self,
        frame: Int[Tensor, "batch places"],
        action: Int[Tensor, " batch"],
        temperature: float = 1.0,
        next_frame: bool = True,
    ) -> Imagined:
        """Take an action in the present frame, which the caches hold already. All that follows is sampled, by `sample`
        with the temperature: reward (class 0, 1, 2 for -1, 0, 1) and end (class 1), each once, where the model,
        `self.model(ids, self.caches)`, has read the action; then the next frame, token after token, each drawn from
        what the model says once it has read the one before. The last token is read, too, so that the caches hold the
        whole frame: 1 + places calls of the model, all of one position.
        Without `next_frame` it is the one call that reads the action.

        Where the caches have no room for what will be read, they begin anew, with `self.reset(frame)`.
        """
        # TODO 5.14: a step of a dream
        raise NotImplementedError("exercise 5.14: a step of a dream")


class Trajectory(NamedTuple):
    """An imagined sequence: what was seen and done at each step, and what followed."""

    tokens: Int[Tensor, "batch steps places"]
    action: Int[Tensor, "batch steps"]
    logits: Float[Tensor, "batch steps actions"]
    value: Float[Tensor, "batch steps"]
    reward: Float[Tensor, "batch steps"]
    end: Bool[Tensor, "batch steps"]


def imagine(
    model: WorldModel,
    policy: ActorCritic,
    state: State,
    tokens: Int[Tensor, "batch places"],
    horizon: int,
    temperature: float = 1.0,
) -> Trajectory:
    """`horizon` steps of a policy in the imagined world, from frames, and from what it remembers of before them.

    Gradient flows into the policy's logits and values, through what it remembers from step to step, and nowhere else.
    """
    world, steps = ImaginedWorld(model), []
    world.reset(tokens)
    for k in range(horizon):
        state = policy.remember(policy.look(tokens), state)
        logits, value = policy.decide(state)
        action = sample(logits.detach())
        imagined = world.step(tokens, action, temperature, next_frame=k < horizon - 1)
        steps.append((tokens, action, logits, value, imagined.reward, imagined.end))
        tokens = imagined.tokens
    return Trajectory(*(torch.stack(each, 1) for each in zip(*steps, strict=True)))


# ---- the command ----


@dataclass
class SampleOptions:
    """Write trajectories that a trained agent imagines."""

    checkpoint: str = "model.pt"
    """Looked for here, then in this paper's newest run."""
    count: int = 5
    horizon: int = 20
    """Imagined steps."""
    temperature: float = 1.0
    """Of the imagined world; below 1 it surprises less."""
    out: Path = Path("trajectories")
    """Folder: trajectories.npz, and a GIF of each."""
    seed: int = 2_000_000
    device: str = "auto"


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    from paper5_iris.agent import IRISAgent  # which imports this file

    options = tyro.cli(SampleOptions, args=argv)
    if min(options.count, options.horizon) < 1 or options.temperature <= 0:
        raise UserError("--count, --horizon and --temperature must be positive")
    path = find_checkpoint(options.checkpoint, RUNS)
    agent, config = load_agent(path, IRISAgent, Config, paper=PAPER, device=pick_device(options.device))
    torch.manual_seed(options.seed)
    starts = real_episodes(agent, config, options.count, options.seed, max_steps=1)
    tokens = agent.tokens(np.stack([rows["image"][0] for rows in starts]))
    with torch.no_grad():
        state = agent.policy.initial(options.count)
        trajectory = imagine(agent.model, agent.policy, state, tokens, options.horizon, options.temperature)
        image = to_image(agent.tokenizer.to_image(trajectory.tokens)).cpu().numpy()
    arrays = {name: value.cpu().numpy() for name, value in trajectory._asdict().items()} | {"image": image}
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_file(options.out / "trajectories.npz") as file:
        np.savez_compressed(file, **arrays)
    print(f"written: {options.out / 'trajectories.npz'} ({', '.join(arrays)})")
    for i, frames in enumerate(image):
        print(f"written: {write_video(options.out / f'trajectory_{i}.gif', frames, fps=10)}")


if __name__ == "__main__":
    main()
