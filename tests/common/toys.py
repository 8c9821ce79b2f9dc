"""An agent and environments whose every number can be worked out by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from common.agent import DreamStep
from common.checkpoint import save_checkpoint
from common.config import BaseConfig
from common.run_folder import config_to_dict

PAPER = "paper0_toy"


class Scripted(gymnasium.Env):
    """Plays PLANS[seed]: a reward for each frame, and whether the end is a true one; other seeds play PLANS[None].

    Observes (seed, frames played). After an end, a reset without a seed plays PLANS[None].
    """

    PLANS: ClassVar = {
        10: ([1.0, 2.0, 3.0], True),
        11: ([0.5], True),
        12: ([0.0, -1.0, 0.0, 0.0, 4.0], False),
        13: ([1.0, 0.0, 0.0, 5.0, 0.0, -1.0, 0.0, 7.0], True),
        None: ([100.0] * 50, False),
    }
    observation_space = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.plan, self.told, self.t = self.PLANS.get(seed, self.PLANS[None]), -1 if seed is None else seed, 0
        return self.seen(), {}

    def step(self, action):
        rewards, terminal = self.plan
        self.t += 1
        over = self.t == len(rewards)
        return self.seen(), rewards[self.t - 1], over and terminal, over and not terminal, {}

    def seen(self):
        return {"vector": np.array([self.told, self.t], np.float32)}


@dataclass
class ToyConfig(BaseConfig):
    env: str = "TinyCatch-v0"
    steps: int = 100
    size: int = 3
    """Something that presets differ in."""


class ToyAgent:
    """Always takes the action it was saved with; dreams that each action brightens the frame by the action's number.

    That is, action k of a one-hot row adds k to every pixel; the reward is k and no dream ends.
    """

    def __init__(self, config, observation_space, action_space, device="cpu"):
        self.n, self.action = int(action_space.n), torch.tensor(0)

    def initial_state(self, batch_size):
        return {}

    def act(self, obs, state, *, explore):
        return np.eye(self.n, dtype=np.float32)[[int(self.action)] * len(obs["is_first"])], {}

    def reconstruct(self, batch):
        return batch["image"]

    def latent_use(self, batch):
        return np.array([0.5, 0.0])

    def begin_dream(self, context):
        return {"image": torch.as_tensor(context["image"][:, -1])}

    def dream_step(self, state, action, *, temperature=1.0, decode=True):
        number = action.argmax(-1)
        image = state["image"] + number[:, None, None, None].byte()
        return DreamStep({"image": image}, image, number.float(), torch.ones(len(number)))

    def dream_action(self, state):
        return torch.eye(self.n)[[int(self.action)] * len(state["image"])]

    def load_state_dict(self, state):
        self.action = state["action"]


def save_toy(path: Path, action: int = 1, paper: str = PAPER) -> Path:
    """The checkpoint of a ToyAgent that always takes `action`."""
    config = config_to_dict(ToyConfig())
    save_checkpoint(path, {"paper": paper, "config": config, "agent": {"action": torch.tensor(action)}})
    return path
