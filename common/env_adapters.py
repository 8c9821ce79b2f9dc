"""Simulators that are not quite a `gymnasium.Env` of dictionaries, made one.

Atari, dm_control, Crafter, ViZDoom, MineRL: a class for each, which imports its package when it is built, so
that nobody needs them all. What the families have in common is done in `common/env_wrapper.py`.
"""

import contextlib
import importlib
import os
import sys
import tempfile
import weakref
from types import ModuleType
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from common.errors import UserError

# MuJoCo's renderers look for a window unless told otherwise, and look only once: when first imported.
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")


def load_package(module: str, package: str) -> ModuleType:
    """Import a module that only some environments need; UserError with the pip line where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"the package {package} is not installed: pip install {package}") from None
    except Exception as error:  # a system library is missing: packages raise all sorts of things
        hint = "; try MUJOCO_GL=osmesa" if package == "dm_control" else ""
        raise UserError(f"the package {package} does not load ({error}){hint}") from error


def image_box(height: int, width: int, channels: int = 3) -> spaces.Box:
    """The space of a uint8 image (H, W, C)."""
    return spaces.Box(0, 255, (height, width, channels), np.uint8)


class AtariFrames(gymnasium.Wrapper):
    """The usual treatment of an Atari game (Mnih et al. 2015, Machado et al. 2018), its picture at full size.

    An action is held for `repeat` frames and rewards are summed. The picture is the pixelwise maximum of the
    last two frames, because many games draw some objects in every other frame only; after `reset`, and where
    an episode ends early inside a repeat, it is the last frame alone. A new game begins with 1..noop_max
    no-ops (none for noop_max=0), drawn from the seed.

    With `life_loss` the loss of a life is `terminated`, though the game goes on: the next `reset` without a
    seed does not start over but plays one no-op step.

    info: "frames" played in this step, "reset_frames" that a reset spent on no-ops, "lives" left.
    """

    def __init__(self, env: gymnasium.Env, repeat: int, noop_max: int, grayscale: bool, life_loss: bool):
        """`env` is an `ALE/...` environment with frameskip=1; the screen is read from ALE, not from it."""
        super().__init__(env)
        self.ale = env.unwrapped.ale
        self.repeat, self.noop_max, self.grayscale, self.life_loss = repeat, noop_max, grayscale, life_loss
        self.life_lost = False
        self.observation_space = spaces.Dict(image=image_box(*self.ale.getScreenDims(), 1 if grayscale else 3))

    def reset(self, *, seed=None, options=None):
        frames = 0
        if self.life_lost and seed is None:
            obs, _, _, _, info = self.step(0)
            frames = info["frames"]
            if not self.ale.game_over():
                return obs, {"lives": self.lives, "reset_frames": frames}
        self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(1, self.noop_max + 1) if self.noop_max else 0):
            _, _, terminated, truncated, _ = self.env.step(0)
            frames += 1
            if terminated or truncated:
                self.env.reset()
        self.lives, self.life_lost = self.ale.lives(), False
        return {"image": self._screen()}, {"lives": self.lives, "reset_frames": frames}

    def step(self, action):
        total, frames, screens, over = 0.0, 0, [], False
        while frames < self.repeat and not over:
            _, reward, terminated, truncated, _ = self.env.step(action)
            total += reward
            frames += 1
            lives = self.ale.lives()
            # Some games show 0 lives for a while before they are over; that end is ALE's to tell.
            self.life_lost = self.life_loss and 0 < lives < self.lives
            self.lives = lives
            over = terminated or truncated or self.life_lost
            if over or frames >= self.repeat - 1:
                screens.append(self._screen())
        image = np.maximum(*screens) if len(screens) == 2 else screens[0]
        info = {"frames": frames, "lives": lives}
        return {"image": image}, total, terminated or self.life_lost, truncated, info

    def _screen(self) -> np.ndarray:
        return self.ale.getScreenGrayscale()[..., None] if self.grayscale else self.ale.getScreenRGB()


class DeepMindControl(gymnasium.Env):
    """A task of the dm_control suite (Tassa et al. 2018); `vector` is all it observes, flattened in order.

    The suite's time limit (discount 1) is `truncated`, a true end (discount 0) is `terminated`.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 50}
    render_mode = "rgb_array"

    def __init__(self, domain: str, task: str):
        self.simulator = load_package("dm_control.suite", "dm_control").load(domain, task)
        self.camera = 2 if domain == "quadruped" else 0  # its camera 0 stays behind
        size = sum(int(np.prod(spec.shape)) for spec in self.simulator.observation_spec().values())
        self.observation_space = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, (size,), np.float32))
        action = self.simulator.action_spec()
        self.action_space = spaces.Box(action.minimum.astype(np.float32), action.maximum.astype(np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.simulator.task.random.seed(seed)
        return self._observe(self.simulator.reset()), {}

    def step(self, action):
        now = self.simulator.step(action)
        terminated = now.last() and now.discount == 0
        return self._observe(now), float(now.reward), terminated, now.last() and not terminated, {}

    def pixels(self, height: int, width: int) -> np.ndarray:
        """Draw the present state, uint8 (height, width, 3)."""
        return self.simulator.physics.render(height, width, camera_id=self.camera)

    def render(self) -> np.ndarray:
        return self.pixels(240, 320)

    def _observe(self, now) -> dict[str, np.ndarray]:
        return {"vector": np.concatenate([np.ravel(x) for x in now.observation.values()]).astype(np.float32)}


class Crafter(gymnasium.Env):
    """Crafter (Hafner 2021): an episode ends by death (`terminated`) or after 10,000 steps (`truncated`).

    info["achievements"]: how often each was reached in this episode, by name.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self, image_size: int, reward: bool):
        crafter = load_package("crafter", "crafter")
        self.build = lambda seed: crafter.Env(size=(image_size, image_size), reward=reward, seed=seed)
        self.game = None
        self.observation_space = spaces.Dict(image=image_box(image_size, image_size))
        self.action_space = spaces.Discrete(len(crafter.constants.actions))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None or self.game is None:  # all its worlds follow from the seed it is built with
            self.game = self.build(int(self.np_random.integers(2**31)))
        return {"image": self.game.reset()}, {}

    def step(self, action):
        image, reward, done, info = self.game.step(action)
        terminated = bool(done and info["discount"] == 0)
        truncated = bool(done and not terminated)
        return {"image": image}, float(reward), terminated, truncated, {"achievements": info["achievements"]}

    def render(self) -> np.ndarray:
        return self.game.render((256, 256))


class Doom(gymnasium.Wrapper):
    """The screen of a ViZDoom scenario (Kempka et al. 2016), and of that the upper `crop_rows` (a fraction).

    ViZDoom calls a time-out both terminated and truncated, and shows black after an episode's last step. Here
    a time-out is `truncated` only, and the last frame that was seen stays.
    """

    def __init__(self, env: gymnasium.Env, crop_rows: float):
        super().__init__(env)
        height, width, channels = env.observation_space["screen"].shape
        self.rows = round(height * crop_rows)
        self.observation_space = spaces.Dict(image=image_box(self.rows, width, channels))
        # The engine writes `_vizdoom.ini` and a folder `_vizdoom` where it is started.
        self.folder = tempfile.TemporaryDirectory(prefix="vizdoom-", ignore_cleanup_errors=True)
        self.stop = weakref.finalize(self, self._stop, env.unwrapped.game, self.folder)  # if nobody calls close

    def reset(self, *, seed=None, options=None):
        with contextlib.chdir(self.folder.name):
            obs, info = self.env.reset(seed=seed, options=options)
        self.image = obs["screen"][: self.rows]
        return {"image": self.image}, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        doom = self.env.unwrapped
        if doom.state is not None:
            self.image = obs["screen"][: self.rows]
        terminated = terminated and not doom.game.is_episode_timeout_reached()
        return {"image": self.image}, reward, terminated, truncated, info

    def close(self):
        super().close()
        self.stop()

    @staticmethod
    def _stop(game, folder):
        game.close()  # the engine writes once more before it ends
        folder.cleanup()


class MineRLNavigate(gymnasium.Env):
    """MineRL's navigation task (Guss et al. 2019): find the diamond block that the compass leads to.

    `image` is the player's view; `vector` holds sine and cosine of the compass angle, and the stacks of dirt
    carried. An action is one of MOVES. Touching the block is `terminated`, MineRL's limit of 6000 steps
    `truncated`.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"
    TIME_LIMIT = 6000
    MOVES = (  # what differs from doing nothing; the camera turns by degrees of (pitch, yaw)
        {},
        {"forward": 1},
        {"forward": 1, "jump": 1},
        {"back": 1},
        {"left": 1},
        {"right": 1},
        {"camera": (0, -15)},
        {"camera": (0, 15)},
        {"camera": (-15, 0)},
        {"camera": (15, 0)},
        {"attack": 1},
        {"forward": 1, "attack": 1},
        {"place": "dirt"},
    )
    KEYS = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")

    def __init__(self, dense: bool = True):
        load_package("minerl", "minerl")  # registers its tasks with the old gym
        task = "MineRLNavigateDense-v0" if dense else "MineRLNavigate-v0"
        self.game = load_package("gym", "gym").make(task)
        height, width, _ = self.game.observation_space.spaces["pov"].shape
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict(image=image_box(height, width), vector=vector)
        self.action_space = spaces.Discrete(len(self.MOVES))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.game.seed(seed)
        self.steps = 0
        return self._observe(self.game.reset()), {}

    def step(self, action):
        nothing = {**dict.fromkeys(self.KEYS, 0), "camera": (0, 0), "place": "none"}
        command = nothing | self.MOVES[action]
        command["camera"] = np.array(command["camera"], np.float32)
        obs, reward, done, info = self.game.step(command)
        self.steps += 1
        timeout = info.get("TimeLimit.truncated", self.steps >= self.TIME_LIMIT)
        return self._observe(obs), float(reward), bool(done and not timeout), bool(done and timeout), {}

    def render(self) -> np.ndarray:
        return self.image

    def close(self):
        self.game.close()

    def _observe(self, obs) -> dict[str, np.ndarray]:
        self.image = np.array(obs["pov"])
        angle = np.deg2rad(float(obs["compass"]["angle"]))
        dirt = float(obs["inventory"]["dirt"]) / 64
        return {"image": self.image, "vector": np.array([np.sin(angle), np.cos(angle), dirt], np.float32)}
