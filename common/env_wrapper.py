"""Environments: one id grammar for every family, one observation format, one place where steps become rows.

    CartPole-v1, BipedalWalker-v3, ...      any gymnasium id: its state as `vector`, its picture as `image`
    CarRacing-v3                            pixels, without the indicator bar
    ALE/Pong-v5, atari_pong, ...            Atari
    dmc_walker_walk, dmc_reacher_easy, ...  the dm_control suite: pixels, proprioception, or both
    crafter_reward, crafter_noreward        Crafter
    VizdoomTakeCover-v1, ...                ViZDoom's scenarios with discrete actions
    minecraft_navigate                      MineRL where it is installed, else TinyCraft-v0
    TinyCatch-v0, TinyReacher-v0, ...       built in: common/tiny_envs

Read it from the top: ids, `make_env`, a function for each family, wrappers, `make_vec_env`, `RowStream`.
"""

import contextlib
import difflib
import os
from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import (
    AddRenderObservation,
    FilterObservation,
    FlattenObservation,
    RescaleAction,
    TimeLimit,
    TransformObservation,
)
from PIL import Image

import common.tiny_envs  # noqa: F401  registers the built-in environments
from common import env_adapters
from common.env_adapters import image_box, load_package
from common.errors import UserError

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

# ---- ids ----


def family(env_id: str) -> str:
    """The family of an id, told by its form: gymnasium, tiny, car_racing, atari, dmc, crafter, ..."""
    prefixes = {
        "Tiny": "tiny",
        "CarRacing": "car_racing",
        "ALE/": "atari",
        "atari_": "atari",
        "dmc_": "dmc",
        "crafter_": "crafter",
        "Vizdoom": "vizdoom",
        "minecraft_": "minecraft",
    }
    return next((name for prefix, name in prefixes.items() if env_id.startswith(prefix)), "gymnasium")


def usual_repeat(env_id: str) -> int:
    """Frames that an action is held where nobody says otherwise."""
    return {"atari": 4, "dmc": 2}.get(family(env_id), 1)


def resolve_id(env_id: str) -> str:
    """The id that really runs; prints one line where it is not the one asked for.

    Raises UserError for an unknown id, naming the nearest, and for a missing package, with its pip line.
    """
    if env_id == "CarRacing-v2":
        print("CarRacing-v2 is no longer part of gymnasium: running CarRacing-v3")
        return "CarRacing-v3"
    if env_id == "minecraft_navigate":
        try:
            load_package("minerl", "minerl")
        except UserError as error:
            print(f"minecraft_navigate runs as the built-in TinyCraft-v0 ({error})")
            return "TinyCraft-v0"
    if ":" in env_id or env_id in _known_ids(family(env_id)):  # module:Name-v0 is for gymnasium to import
        return env_id
    known = {}  # by their lower case
    for name in _FAMILIES:
        with contextlib.suppress(UserError):  # a family that is not installed is not near
            known |= {each.lower(): each for each in _known_ids(name)}
    near = [known[each] for each in difflib.get_close_matches(env_id.lower(), known, n=4, cutoff=0.5)]
    raise UserError(f"unknown environment {env_id!r}; the nearest are: {', '.join(near) or 'none'}")


def _known_ids(name: str) -> list[str]:
    """All ids of a family. UserError where its package is missing."""
    if name == "atari":
        return [each for pair in _atari_ids().items() for each in pair]
    if name == "dmc":
        return list(_dmc_tasks())
    if name == "crafter":
        load_package("crafter", "crafter")
        return ["crafter_reward", "crafter_noreward"]
    if name == "minecraft":
        return ["minecraft_navigate"]
    if name == "vizdoom":
        load_package("vizdoom.gymnasium_wrapper", "vizdoom")
    # ale-py also registers old ids, such as Pong-v4, with other frame skips: only ALE/... is known here.
    specs = [spec for spec in gymnasium.registry.values() if not str(spec.entry_point).startswith("ale_py")]
    return [spec.id for spec in specs if family(spec.id) == name]


def _atari_ids() -> dict[str, str]:
    """atari_space_invaders -> ALE/SpaceInvaders-v5, and so on."""
    ale = load_package("ale_py", "ale-py")
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # no banner
    gymnasium.register_envs(ale)
    specs = [spec for spec in gymnasium.registry.values() if spec.id.startswith("ALE/")]
    return {f"atari_{spec.kwargs['game']}": spec.id for spec in specs}


def _dmc_tasks() -> dict[str, tuple[str, str]]:
    """dmc_ball_in_cup_catch -> (ball_in_cup, catch), and so on."""
    suite = load_package("dm_control.suite", "dm_control")
    return {f"dmc_{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}


# ---- one environment ----


def make_env(
    env_id: str,
    *,
    image_size: int = 64,
    action_repeat: int | None = None,
    seed: int | None = None,
    obs: str | None = None,
    time_limit: int | None = None,
    **options,
) -> gymnasium.Env:
    """Make the environment of an id of any family.

    Args:
        env_id: see the head of this file.
        image_size: images are (image_size, image_size, C), by Pillow's bilinear filter; never cropped.
        action_repeat: frames that an action is held, rewards summed. None: Atari 4, dm_control 2, others 1.
        seed: for `action_space`, and for the first `reset()` that is given none. Same seed, same trajectory.
        obs: "image", "vector" or "both". None: what the family naturally has.
        time_limit: frames after which an episode is truncated. None: the family's own.
        options: Atari: sticky=0.25, the probability at each frame that the last action goes on; noop_max=30;
            grayscale=False; full_actions=False; life_loss=False, a lost life ends the episode.
            ViZDoom: crop_rows, the upper fraction of the screen to keep. MineRL: dense=True, the reward.
            gymnasium ids, Atari and ViZDoom pass what is left to `gymnasium.make`.

    Returns:
        An environment that observes a dictionary of `image` uint8 (H, W, C) and/or `vector` float32 (D,), and
        acts in Discrete or Box(-1, 1, (A,)). info["frames"] of a step counts the frames that it played.
        `render()` gives the simulator's own frame.

    Raises:
        UserError: unknown id, missing package, an observation that it does not have, unsuited actions.
    """
    if obs not in (None, "image", "vector", "both"):
        raise UserError(f"obs is image, vector or both, not {obs!r}")
    if image_size < 1 or (action_repeat is not None and action_repeat < 1):
        raise UserError(f"image_size and action_repeat start at 1, not {image_size} and {action_repeat}")
    env_id = resolve_id(env_id)
    name = family(env_id)
    repeat = action_repeat or usual_repeat(env_id)
    obs = obs or ("image" if name == "dmc" else None)
    env = _FAMILIES[name](env_id, image_size, repeat, obs, time_limit, **options)

    keys = _wanted(env_id, env.observation_space, obs)
    if len(keys) < len(env.observation_space):
        env = FilterObservation(env, keys)
    if "image" in keys:
        env = resized(env, image_size)
    return FirstSeed(with_unit_actions(env, env_id), seed)


def _wanted(env_id: str, space: spaces.Dict, obs: str | None) -> list[str]:
    """The keys of the observation that `obs` asks for."""
    keys = list(space) if obs is None else ["image", "vector"] if obs == "both" else [obs]
    for key in keys:
        if key not in space.spaces:
            raise UserError(f"{env_id} does not observe {key!r}, only {', '.join(space)}")
    return keys


# ---- families: each makes an environment that observes a dictionary, repeats actions and counts frames ----


def _gymnasium(env_id, size, repeat, obs, time_limit, **options):
    env = ActionRepeat(_gymnasium_make(env_id, time_limit, **options), repeat)
    space = env.observation_space
    if isinstance(space, spaces.Dict) and set(space) <= {"image", "vector"}:
        return env
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return TransformObservation(env, lambda image: {"image": image}, spaces.Dict(image=space))
    env = FlattenObservation(env)
    space = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32))
    env = TransformObservation(env, lambda state: {"vector": state.astype(np.float32)}, space)
    return AddRenderObservation(env, False, "image") if obs in ("image", "both") else env


def _gymnasium_make(env_id, time_limit, **options):
    try:
        return gymnasium.make(env_id, time_limit, disable_env_checker=True, **{"render_mode": "rgb_array", **options})
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"{env_id}: {error}") from None


def _car_racing(env_id, size, repeat, obs, time_limit, **options):
    """The upper 84 of 96 rows: below is the indicator bar (Ha and Schmidhuber 2018)."""
    env = _gymnasium_make(env_id, time_limit, **options)
    car, draw = env.unwrapped, env.unwrapped._render
    # Its `step` draws every frame (6 ms), skipped ones too: here it draws once, after the last is played.
    car._render = lambda mode: None if mode == "state_pixels" else draw(mode)
    space = spaces.Dict(image=image_box(84, 96))
    return TransformObservation(ActionRepeat(env, repeat), lambda _: {"image": draw("state_pixels")[:84]}, space)


def _atari(
    env_id, size, repeat, obs, time_limit, *,
    sticky=0.25, noop_max=30, grayscale=False, full_actions=False, life_loss=False, **options,
):  # fmt: skip
    env = _gymnasium_make(
        _atari_ids().get(env_id, env_id),
        None,
        frameskip=1,  # by itself ALE/... skips 4 frames, to which a repeat of 4 would add
        repeat_action_probability=sticky,
        full_action_space=full_actions,
        max_num_frames_per_episode=time_limit or 108_000,  # half an hour; no-ops count
        obs_type="ram",  # quick, and nobody looks
        **options,
    )
    return env_adapters.AtariFrames(env, repeat, noop_max, grayscale, life_loss)


def _dmc(env_id, size, repeat, obs, time_limit):
    simulator = env_adapters.DeepMindControl(*_dmc_tasks()[env_id])
    env = _limited_repeat(simulator, repeat, time_limit)
    if obs == "vector":
        return env
    space = spaces.Dict(image=image_box(size, size), **env.observation_space)
    return TransformObservation(env, lambda seen: {"image": simulator.pixels(size, size), **seen}, space)


def _crafter(env_id, size, repeat, obs, time_limit):
    return _limited_repeat(env_adapters.Crafter(size, reward=env_id == "crafter_reward"), repeat, time_limit)


def _vizdoom(env_id, size, repeat, obs, time_limit, *, crop_rows=None, **options):
    if crop_rows is None:  # of TakeCover, Ha and Schmidhuber keep 400 of 480 rows
        crop_rows = 400 / 480 if "TakeCover" in env_id else 1.0
    env = _gymnasium_make(env_id, time_limit, **options)
    return ActionRepeat(env_adapters.Doom(env, crop_rows), repeat)


def _minecraft(env_id, size, repeat, obs, time_limit, *, dense=True):
    return _limited_repeat(env_adapters.MineRLNavigate(dense), repeat, time_limit)


_FAMILIES = {
    "gymnasium": _gymnasium,
    "tiny": _gymnasium,
    "car_racing": _car_racing,
    "atari": _atari,
    "dmc": _dmc,
    "crafter": _crafter,
    "vizdoom": _vizdoom,
    "minecraft": _minecraft,
}

# ---- wrappers ----


class ActionRepeat(gymnasium.Wrapper):
    """Hold an action for `repeat` frames or until the episode ends; info["frames"]: how many were played."""

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self.repeat = repeat

    def step(self, action):
        total, frames, over = 0.0, 0, False
        while frames < self.repeat and not over:
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            frames += 1
            over = terminated or truncated
        return obs, total, terminated, truncated, {**info, "frames": frames}


def _limited_repeat(env: gymnasium.Env, repeat: int, time_limit: int | None) -> gymnasium.Env:
    """ActionRepeat over a time limit counted in frames."""
    return ActionRepeat(env if time_limit is None else TimeLimit(env, time_limit), repeat)


class FirstSeed(gymnasium.Wrapper):
    """The first reset that is given no seed uses this one; later ones go on with the random numbers."""

    spec = None  # gymnasium could not repeat what `make_env` did

    def __init__(self, env: gymnasium.Env, seed: int | None):
        super().__init__(env)
        self.first_seed = seed
        env.action_space.seed(seed)

    def reset(self, *, seed=None, options=None):
        seed, self.first_seed = self.first_seed if seed is None else seed, None
        return self.env.reset(seed=seed, options=options)


def resized(env: gymnasium.Env, size: int) -> gymnasium.Env:
    """The environment with its `image` made (size, size, C)."""
    old = env.observation_space
    if old["image"].shape[:2] == (size, size):
        return env
    space = spaces.Dict({**old, "image": image_box(size, size, old["image"].shape[2])})
    return TransformObservation(env, lambda seen: {**seen, "image": resize(seen["image"], size)}, space)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, C) to (size, size, C), by Pillow's bilinear filter (which averages where it shrinks)."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


def with_unit_actions(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    """The environment with its continuous actions in [-1, 1]; UserError for other kinds of actions."""
    space = env.action_space
    if is_discrete(space):
        return env
    if not (isinstance(space, spaces.Box) and space.is_bounded()):
        raise UserError(f"{env_id} has actions {space}: only Discrete and bounded Box are supported")
    if (space.low == -1).all() and (space.high == 1).all():
        return env
    return RescaleAction(env, np.float32(-1), np.float32(1))


# ---- several environments, and their rows ----


def make_vec_env(
    env_id: str, num_envs: int, *, seed: int | None = None, parallel: bool = False, **options
) -> VectorEnv:
    """Make `num_envs` environments that step together, the i-th with seed + i; `options` are `make_env`'s.

    The step after an episode's last one ignores its action and returns the first observation of the next
    (gymnasium's AutoresetMode.NEXT_STEP). With `parallel` each runs in a process of its own (which
    needs the caller's script to be guarded by `if __name__ == "__main__"`); else they take turns, and the
    built-in ones, at their own size and without action repeat, are one batch.
    """
    env_id = resolve_id(env_id)
    own_size = options.get("image_size", 64) == 64 and options.get("action_repeat") in (None, 1)
    if family(env_id) == "tiny" and own_size and not parallel:
        return TinyBatch(env_id, num_envs, seed, options.get("obs"), options.get("time_limit"))
    seeds = [None if seed is None else seed + i for i in range(num_envs)]
    makers = [partial(make_env, env_id, seed=each, **options) for each in seeds]
    # Spawned, not forked: a fork of a process that has rendered with OpenGL hangs.
    return AsyncVectorEnv(makers, context="spawn") if parallel else SyncVectorEnv(makers)


def steps_as_batch(env_id: str) -> bool:
    """Whether many of these environments cost little more than one: the built-in ones are one batch of arrays."""
    return family(env_id) == "tiny"


class TinyBatch(VectorWrapper):
    """A built-in environment's own batch, with `make_env`'s seed, choice of observation and time limit."""

    def __init__(self, env_id: str, num_envs: int, seed: int | None, obs: str | None, time_limit: int | None):
        limit = {} if time_limit is None else {"max_episode_steps": time_limit}
        mode = "vector_entry_point"
        super().__init__(gymnasium.make_vec(env_id, num_envs, mode, render_mode="rgb_array", **limit))
        self.first_seed = seed
        self.action_space.seed(seed)
        self.keys = _wanted(env_id, self.env.single_observation_space, obs)
        self.single_observation_space = self._choose(self.env.single_observation_space)
        self.observation_space = self._choose(self.env.observation_space)

    def _choose(self, space: spaces.Dict) -> spaces.Dict:
        return spaces.Dict({key: space[key] for key in self.keys})

    def reset(self, *, seed=None, options=None):
        if self.first_seed is not None and not isinstance(seed, int):  # None is the first seed, one by one, too
            seeds = [None] * self.num_envs if seed is None else seed
            seed = [self.first_seed + i if each is None else each for i, each in enumerate(seeds)]
        self.first_seed = None
        obs, info = self.env.reset(seed=seed, options=options)
        return {key: obs[key] for key in self.keys}, info

    def step(self, actions):
        obs, *rest = self.env.step(actions)
        return {key: obs[key] for key in self.keys}, *rest


def spaces_of(env_id: str, **options) -> tuple[spaces.Dict, spaces.Space]:
    """(observation space, action space) of the environment that `make_env` makes with these options."""
    env = make_env(env_id, **options)
    env.close()
    return env.observation_space, env.action_space


def is_discrete(space: spaces.Space) -> bool:
    """Whether actions are choices (stored one-hot) rather than numbers in [-1, 1]."""
    return isinstance(space, spaces.Discrete)


def action_size(space: spaces.Space) -> int:
    """The length A of an action as a row stores it."""
    return int(space.n) if is_discrete(space) else int(np.prod(space.shape))


class RowStream:
    """The one place where gymnasium's steps become rows: dictionaries of arrays (N, ...).

    A row holds what is known when the next action is chosen:
        image, vector   the observation
        prev_action     (A,) float32, the action that led here; zeros where is_first
        reward          float32, received on arrival; 0 where is_first
        is_first        the first row of an episode
        is_terminal     a true end: nothing can be earned after it. Not set by a time limit
        is_last         the last row of an episode, for either reason
    The row after an is_last one is the next episode's is_first row; the action given there is not used.

    Attributes:
        frames: environment frames played so far: action repeats count, no-ops of a reset do not.
        agent_steps: decisions made so far; the step into an is_first row is none.
        step_frames: (N,) frames that the last step played in each environment; 0 into an is_first row.
    """

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        self.discrete = is_discrete(envs.single_action_space)
        self.action_size = action_size(envs.single_action_space)
        self.frames = 0
        self.agent_steps = 0

    def reset(self, seeds: int | list[int] | None = None) -> dict[str, np.ndarray]:
        """Begin an episode in every environment; an int seeds environment i with seeds + i."""
        obs, _ = self.envs.reset(seed=seeds)
        self.over = np.zeros(self.envs.num_envs, bool)
        begin, no = ~self.over, self.over
        return self._rows(obs, np.zeros((len(no), self.action_size)), np.zeros(len(no)), begin, no, no)

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Take an action in every environment: (N, A), one-hot or in [-1, 1], as a row stores it."""
        is_first = self.over  # these begin a new episode now
        native = action.argmax(-1) if self.discrete else action
        obs, reward, terminated, truncated, info = self.envs.step(native)
        self.over = terminated | truncated
        frames = np.broadcast_to(info.get("frames", 1), is_first.shape)  # the built-in batches play one a step
        self.step_frames = np.where(is_first, 0, frames)
        self.frames += int(self.step_frames.sum())
        self.agent_steps += int((~is_first).sum())
        prev_action = np.where(is_first[:, None], 0, action)
        return self._rows(obs, prev_action, reward, is_first, terminated, self.over)

    @staticmethod
    def _rows(obs, prev_action, reward, is_first, is_terminal, is_last) -> dict[str, np.ndarray]:
        return {
            **obs,
            "prev_action": prev_action.astype(np.float32),
            "reward": reward.astype(np.float32),
            "is_first": is_first.copy(),
            "is_terminal": is_terminal.copy(),
            "is_last": is_last.copy(),
        }
