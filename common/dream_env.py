"""A learned world as a gymnasium environment: reset from real frames, step in the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.agent import Agent, Rows
from common.env_wrapper import is_discrete
from common.video import to_rgb


class DreamVecEnv(VectorEnv):
    """`num_envs` dreams of one agent, stepped as one batch.

    agent: any trained agent. starts: real context rows (episodes, time, ...): each dream begins at the end of one of
    them, drawn at random. action_space: the real environment's. obs: "image" is what the model pictures, "feat" what
    the policy sees (no picture is decoded then). A dream is terminated where the model holds the end for more likely
    than not, and truncated after `horizon` steps; the step after that resets it (NEXT_STEP).
    Observation, reward and end are all the model's own. `temperature` makes it less or more surprising.
    """

    metadata: ClassVar = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        agent: Agent,
        starts: Rows,
        action_space: spaces.Space,
        num_envs: int,
        *,
        obs: Literal["image", "feat"] = "image",
        horizon: int = 1000,
        temperature: float = 1.0,
        seed: int | None = None,
    ):
        self.agent, self.starts, self.num_envs = agent, starts, num_envs
        self.obs, self.horizon, self.temperature = obs, horizon, temperature
        self.render_mode = "rgb_array"
        self.single_action_space, self.action_space = action_space, batch_space(action_space, num_envs)
        if obs == "image":
            self.single_observation_space = spaces.Box(0, 255, starts["image"].shape[2:], np.uint8)
        else:
            size = agent.feat(agent.begin_dream({key: value[:1] for key, value in starts.items()})).shape[-1]
            self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed: int | list[int] | None = None, options: dict | None = None):
        """Begin a dream everywhere. The seed decides the starts and all that the model draws from here on."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.elapsed, self.over = np.zeros(self.num_envs, int), np.zeros(self.num_envs, bool)
        self.state, self.image = self.begin(self.num_envs)
        return self.observation(), {}

    def step(self, actions: np.ndarray):
        """One imagined step: actions as the real environment takes them."""
        rows = np.eye(self.single_action_space.n)[actions] if is_discrete(self.single_action_space) else actions
        with self.own_randomness():
            dreamt = self.agent.dream_step(
                self.state,
                torch.as_tensor(rows, dtype=torch.float32),
                temperature=self.temperature,
                decode=self.obs == "image",
            )
        reward, terminated = dreamt.reward.cpu().double().numpy(), dreamt.cont.cpu().numpy() < 0.5
        image = self.image if dreamt.image is None else dreamt.image.cpu().numpy()
        self.state, self.image, self.elapsed = dreamt.state, image, self.elapsed + 1
        fresh = self.over
        if fresh.any():
            state, begun = self.begin(int(fresh.sum()))
            at = torch.as_tensor(np.flatnonzero(fresh))
            self.state = {key: old.index_copy(0, at.to(old.device), state[key]) for key, old in self.state.items()}
            self.image = self.image.copy()
            self.image[fresh] = begun
            self.elapsed[fresh], reward[fresh], terminated[fresh] = 0, 0, False
        truncated = (self.elapsed >= self.horizon) & ~terminated
        self.over = terminated | truncated
        return self.observation(), reward, terminated, truncated, {}

    def begin(self, count: int):
        """So many fresh states, and the images where they begin."""
        chosen = self.rng.integers(len(self.starts["reward"]), size=count)
        context = {key: value[chosen] for key, value in self.starts.items()}
        with self.own_randomness():
            return self.agent.begin_dream(context), context["image"][:, -1]

    def observation(self) -> np.ndarray:
        """The picture, or what the policy sees."""
        return self.image.copy() if self.obs == "image" else self.agent.feat(self.state).cpu().numpy()

    def render(self) -> tuple[np.ndarray, ...]:
        """What is dreamt at present, N images; in `obs="feat"` the frames where the dreams began."""
        return tuple(self.image.copy())

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """The model draws from torch's global generators: let it draw there what this environment's seed decides."""
        with torch.random.fork_rng():
            torch.manual_seed(int(self.rng.integers(2**62)))
            yield


class DreamEnv(gymnasium.Env):
    """One dream: `DreamVecEnv` with a batch of one, without the leading axis; the same arguments."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"

    def __init__(self, agent: Agent, starts: Rows, action_space: spaces.Space, **options):
        self.batch = DreamVecEnv(agent, starts, action_space, 1, **options)
        self.observation_space, self.action_space = self.batch.single_observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        obs, info = self.batch.reset(seed=seed)
        return obs[0], info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.batch.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray:
        return to_rgb(self.batch.image[0])
