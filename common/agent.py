"""What every trained world-model agent can do: all tools are written against this alone."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from common.checkpoint import load_checkpoint
from common.env_wrapper import spaces_of
from common.replay_buffer import ReplayBuffer
from common.run_folder import config_from_dict

Rows = dict[str, np.ndarray]  # leading axes (batch,) or (batch, time); keys as in common/replay_buffer.py
State = dict[str, Tensor]  # whatever the agent carries from step to step, each (batch, ...)


class DreamStep(NamedTuple):
    """One imagined step of a batch."""

    state: State
    image: UInt8[Tensor, "batch height width channels"] | None  # None where `decode` is off
    reward: Float[Tensor, " batch"]
    cont: Float[Tensor, " batch"]  # probability that the episode goes on


@runtime_checkable
class Agent(Protocol):
    """A world model and the policy that lives in it."""

    def initial_state(self, batch_size: int) -> State:
        """The state before an episode's first row."""

    def act(self, obs: Rows, state: State, *, explore: bool) -> tuple[Float[np.ndarray, "batch action"], State]:
        """Choose actions for a batch of rows, as a replay row stores them; the state restarts where `is_first`."""

    def learn(self, replay: ReplayBuffer, step: int) -> dict[str, float | Tensor]:
        """Train whatever is due after `step` environment frames, or a piece of it: called again until nothing is left,
        which an empty dict says. Metrics under their names in the log, tensors of one element where reading them would
        make a GPU wait."""

    def reconstruct(self, batch: Rows) -> UInt8[np.ndarray, "batch time height width channels"]:
        """What the model keeps of the images of a batch of sequences."""

    def latent_use(self, batch: Rows) -> Float[np.ndarray, " dim"] | Int[np.ndarray, "variables classes"]:
        """How much of the latent a batch of sequences uses: of a Gaussian the KL of each dimension in nats, of a
        discrete code how often each class of each variable occurs."""

    def begin_dream(self, context: Rows) -> State:
        """The state after taking in context rows (batch, time, ...); the last row is where the dream starts."""

    def dream_step(self, state: State, action: Float[Tensor, "batch action"], *, temperature: float = 1.0,
                   decode: bool = True) -> DreamStep:  # fmt: skip
        """Imagine one step, open loop. `decode=False` leaves the picture out, where only the latent is wanted."""

    def dream_action(self, state: State) -> Float[Tensor, "batch action"]:
        """The agent's own action in a dream's state, as a replay row stores it."""

    def feat(self, state: State) -> Float[Tensor, "batch feat"]:
        """What the policy sees of a dream's state."""

    def weights(self) -> dict:
        """What playing and dreaming need: {network: its state_dict}, for model.pt."""

    def state_dict(self) -> dict:
        """What training goes on from: weights, optimisers, counters."""

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` or `weights` gave."""


def load_agent(
    path: str | Path, agent_class: type[Agent], config_class: type, *, paper: str, device: str | torch.device = "cpu"
):
    """(agent, config) of a checkpoint. Raises UserError where the file is missing, damaged or another paper's."""
    payload = load_checkpoint(path, paper=paper, device=device)
    config = config_from_dict(config_class, payload["config"])
    agent = agent_class(config, *spaces_of(config.env, **config.env_options()), device)
    agent.load_state_dict(payload["agent"])
    return agent, config


class Dream(NamedTuple):
    """Imagined sequences: entry k is what followed action k."""

    images: UInt8[np.ndarray, "batch horizon height width channels"]
    rewards: Float[np.ndarray, "batch horizon"]
    conts: Float[np.ndarray, "batch horizon"]
    actions: Float[np.ndarray, "batch horizon action"]


@torch.no_grad()
def dream(
    agent: Agent,
    context: Rows,
    horizon: int,
    actions: Float[np.ndarray, "batch horizon action"] | None = None,
    temperature: float = 1.0,
) -> Dream:
    """Roll the world model `horizon` steps on from the end of `context`, without looking at reality again.

    With `actions` given it is prediction, to hold against what really happened; with the agent's own policy it is
    imagination.
    """
    state = agent.begin_dream(context)
    steps, taken = [], []
    for k in range(horizon):
        action = agent.dream_action(state) if actions is None else torch.as_tensor(actions[:, k])
        step = agent.dream_step(state, action, temperature=temperature)
        state = step.state
        steps.append(step)
        taken.append(action)
    stack = lambda arrays: torch.stack(arrays, 1).cpu().numpy()
    return Dream(
        images=stack([s.image for s in steps]),
        rewards=stack([s.reward for s in steps]),
        conts=stack([s.cont for s in steps]),
        actions=stack(taken),
    )
