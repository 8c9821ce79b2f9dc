"""Play inside an agent's dream with the keyboard: visualize.py --play."""

import itertools
import os
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium import spaces

from common.agent import Agent, Rows
from common.dream_env import DreamEnv
from common.env_wrapper import is_discrete
from common.errors import UserError

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame
from gymnasium.utils.play import play
from pygame import K_DOWN, K_LEFT, K_RIGHT, K_SPACE, K_UP, K_a, K_d, K_s, K_w

Keys = dict[tuple[int, ...], int | np.ndarray]  # keys held at once -> action
PAIRS = ((K_LEFT, K_RIGHT), (K_DOWN, K_UP), (K_a, K_d), (K_s, K_w))  # less and more of each number of an action
WINDOW = 512  # pixels


def keys_of(env_id: str, env: gymnasium.Env) -> tuple[Keys, int | np.ndarray]:
    """(keys of the real environment, what is done when none is held): its own where it names some, as Atari does."""
    space = env.action_space
    if env_id == "TinyCatch-v0":
        return {(K_LEFT,): 0, (K_RIGHT,): 2}, 1
    if env_id == "TinyCraft-v0":
        return {(K_UP,): 1, (K_DOWN,): 2, (K_LEFT,): 3, (K_RIGHT,): 4, (K_SPACE,): 5}, 0
    if env_id.startswith("CarRacing"):  # steering; gas and brake are off at -1
        return held(space, ((K_LEFT, K_RIGHT), (None, K_UP), (None, K_DOWN)), rest=(0, -1, -1))
    if env_id == "TinyReacher-v0":  # its second number points down
        return held(space, ((K_LEFT, K_RIGHT), (K_UP, K_DOWN)))
    if env.has_wrapper_attr("get_keys_to_action"):
        own = env.get_wrapper_attr("get_keys_to_action")()
        code = lambda key: ord(key) if isinstance(key, str) else key
        return {tuple(sorted(map(code, pressed))): action for pressed, action in own.items()}, 0
    if is_discrete(space):
        return {(ord(str(i)),): i for i in range(min(int(space.n), 10))}, 0
    return held(space, PAIRS)


def held(space: spaces.Box, pairs: tuple, rest: tuple[float, ...] = ()) -> tuple[Keys, np.ndarray]:
    """Keys for the first numbers of a continuous action, any of them at once; `rest` where none is held (0)."""
    noop = np.zeros(space.shape, np.float32)
    noop[: len(rest)] = rest
    keys: Keys = {}
    for choice in itertools.product(*(((None, None), (less, -1), (more, 1)) for less, more in pairs[: len(noop)])):
        action = noop.copy()
        for i, (key, value) in enumerate(choice):
            if key is not None:
                action[i] = value
        if pressed := tuple(sorted(key for key, _ in choice if key is not None)):
            keys[pressed] = action
    return keys, noop


def play_dream(
    agent: Agent,
    starts: Rows,
    env_id: str,
    env: gymnasium.Env,
    temperature: float,
    watch: Callable[[float, bool], None] = lambda reward, over: None,
) -> None:
    """Play until the window is closed (or Escape). Dreams begin at real context rows `starts` (episodes, time, ...).

    env: the real environment, for its actions and keys. watch: told every step's reward, and whether the dream is over.
    Raises UserError where there is no display.
    """
    keys, noop = keys_of(env_id, env)
    names = ", ".join(dict.fromkeys(pygame.key.name(key) for held_keys in keys for key in held_keys))
    total = 0.0

    def told(before, after, action, reward, terminated, truncated, info):
        nonlocal total
        total += reward
        if terminated or truncated:
            print(f"the dream has ended: return {total:.2f}")
            total = 0.0
        watch(reward, terminated or truncated)

    print(f"playing in the dream with {names}; Escape ends it")
    dream = DreamEnv(agent, starts, env.action_space, temperature=temperature)
    zoom = max(1, WINDOW // starts["image"].shape[2])
    try:
        play(dream, keys_to_action=keys, noop=noop, zoom=zoom, fps=10, callback=told)
    except pygame.error as error:
        raise UserError(f"cannot open a window to play in: {error}") from None
