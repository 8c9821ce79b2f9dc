"""What the built-in environments share: seeding, time limit, autoreset, and drawing with sprites.

An environment is written once, for a batch: a `TinyVectorEnv` whose state is arrays with a leading axis N.
The ordinary `gymnasium.Env` is `TinyEnv`, that batch of one.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SIZE = 64  # an image is SIZE x SIZE pixels
IMAGE_SPACE = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
RENDER_SCALE = 4  # render() shows the same image with larger pixels


class TinyVectorEnv(VectorEnv):
    """N independent copies of one environment, stepped together.

    Every integer seed is a new level. Environment i draws from a random stream of its own, so that a batch
    of N plays exactly the trajectories that N single environments with the same seeds play. The time limit
    is the environment's own: `truncated`, never `terminated`. Autoreset is gymnasium's NEXT_STEP: the step
    after an episode's last one ignores its action and returns the first observation of the next episode,
    with reward 0.

    A subclass sets the two spaces and `max_episode_steps`, allocates its state in `__init__`, and writes
    the four methods below. `_advance` is also called for environments that are about to be reset: it must
    not fail there.
    """

    single_observation_space = gymnasium.spaces.Dict(image=IMAGE_SPACE)
    single_action_space: gymnasium.Space
    max_episode_steps: int
    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, max_episode_steps: int | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode is None or "rgb_array", not {render_mode!r}')
        self.num_envs = num_envs
        self.render_mode = render_mode
        # Copies: a space holds the random stream of its sample(), which two environments must not share.
        self.single_observation_space = deepcopy(self.single_observation_space)
        self.single_action_space = deepcopy(self.single_action_space)
        self.max_episode_steps = max_episode_steps or self.max_episode_steps
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rngs: list[np.random.Generator | None] = [None] * num_envs
        self.steps = np.zeros(num_envs, int)  # since the episode began
        self.ended = np.zeros(num_envs, bool)  # the last step was the episode's last

    # ---- what a subclass writes ----

    def _start(self, i: int, rng: np.random.Generator) -> None:
        """Set environment i to the start of a new episode; the only place that draws random numbers."""
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move every environment by one step of action (N, ...); returns reward (N,) and terminated (N,)."""
        raise NotImplementedError

    def _draw(self) -> np.ndarray:
        """The images of the present state, (N, 64, 64, 3) uint8, newly allocated."""
        raise NotImplementedError

    def scripted_action(self) -> np.ndarray:
        """The action (N, ...) of a near-optimal policy that sees the true state: the reference for scores."""
        raise NotImplementedError

    # ---- gymnasium's side ----

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start N new episodes. An int seeds environment i with seed + i; None lets a stream run on."""
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        for i, s in enumerate(seeds):
            if s is not None or self.rngs[i] is None:
                self.rngs[i], _ = np_random(s)
            self._start(i, self.rngs[i])
        self.steps[:] = 0
        self.ended[:] = False
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all: (observation, reward, terminated, truncated, info), each with N rows."""
        if self.rngs[0] is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        reset = self.ended
        reward, terminated = self._advance(self._checked(actions))
        self.steps += 1
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        for i in np.flatnonzero(reset):
            self._start(i, self.rngs[i])
            self.steps[i], reward[i], terminated[i], truncated[i] = 0, 0, False, False
        self.ended = terminated | truncated
        return self._observe(), reward, terminated, truncated, {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present frames, N times (256, 256, 3) uint8; None without render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        return tuple(self._draw().repeat(RENDER_SCALE, axis=1).repeat(RENDER_SCALE, axis=2))

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self._draw()}

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Actions as an array, continuous ones clipped to [-1, 1]; ValueError where they are no actions."""
        space = self.action_space
        actions = np.asarray(actions)
        if actions.shape != space.shape:
            raise ValueError(f"actions have shape {actions.shape}, expected {space.shape}")
        if isinstance(space, gymnasium.spaces.Box):
            if not np.isfinite(actions).all():
                raise ValueError("an action is not a finite number")
            return np.clip(actions, -1.0, 1.0).astype(np.float64)
        if not ((actions >= 0) & (actions < self.single_action_space.n)).all():
            raise ValueError(f"an action is not one of 0..{self.single_action_space.n - 1}")
        return actions.astype(int)


class TinyEnv(gymnasium.Env):
    """A single environment: the batch of one without the leading axis. A subclass names its batch."""

    vector_class: type[TinyVectorEnv]
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, render_mode: str | None = None, max_episode_steps: int | None = None):
        self.batch = self.vector_class(1, render_mode, max_episode_steps)
        self.render_mode = render_mode
        self.max_episode_steps = self.batch.max_episode_steps
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.batch.rngs = [self.np_random]
        obs, info = self.batch.reset(options=options)
        return {name: value[0] for name, value in obs.items()}, info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if self.batch.ended[0]:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset()")
        obs, reward, terminated, truncated, info = self.batch.step(np.asarray(action)[None])
        return (
            {name: value[0] for name, value in obs.items()},
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            info,
        )

    def render(self) -> np.ndarray | None:
        frames = self.batch.render()
        return None if frames is None else frames[0]

    def scripted_action(self) -> Any:
        """The action of a near-optimal policy that sees the true state."""
        return self.batch.scripted_action()[0]


class Sprite:
    """A small picture, drawn with letters: each letter is a colour of `palette`, a dot is transparent."""

    def __init__(self, picture: str, palette: dict[str, tuple[int, int, int]]):
        letters = np.array([list(line) for line in picture.split()])
        self.rows, self.cols = np.nonzero(letters != ".")
        self.colours = np.array([palette[letter] for letter in letters[self.rows, self.cols]], np.uint8)

    def draw(self, images: np.ndarray, x: np.ndarray | int, y: np.ndarray | int) -> None:
        """Paste into images (N, 64, 64, 3), in place, with the upper left corner at column x and row y."""
        n = np.arange(len(images))[:, None]
        images[n, np.reshape(y, (-1, 1)) + self.rows, np.reshape(x, (-1, 1)) + self.cols] = self.colours
