"""Playing inside a dream: keys become the real environment's actions, and a window that cannot open is one line."""

import itertools
import os

import numpy as np
import pytest

os.environ["SDL_VIDEODRIVER"] = "dummy"
import pygame

from common import play as playing
from common.env_wrapper import make_env
from common.errors import UserError
from common.play import keys_of, play_dream
from tests.common.toys import ToyAgent, ToyConfig

LEFT, RIGHT, UP, DOWN = pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN


@pytest.mark.parametrize(
    ("env_id", "held", "action"),
    [
        ("TinyCatch-v0", (), 1),
        ("TinyCatch-v0", (RIGHT,), 2),
        ("TinyCraft-v0", (pygame.K_SPACE,), 5),
        ("TinyReacher-v0", (UP,), [0, -1]),
        ("TinyReacher-v0", (LEFT, DOWN), [-1, 1]),
        ("TinyRacer-v0", (RIGHT, UP), [1, 1]),
        ("TinyRacer-v0", (), [0, 0]),
        ("CarRacing-v3", (), [0, -1, -1]),
        ("CarRacing-v3", (LEFT, UP), [-1, 1, -1]),
        ("CartPole-v1", (ord("1"),), 1),
        ("atari_breakout", (pygame.K_SPACE,), 1),
    ],
)
def test_keys_are_actions_of_the_real_environment(env_id, held, action):
    env = make_env(env_id)
    keys, noop = keys_of(env_id, env)
    found = keys[tuple(sorted(held))] if held else noop
    np.testing.assert_array_equal(found, action)
    assert all(each in env.action_space for each in [*keys.values(), noop])
    env.close()


def test_a_dream_follows_the_keyboard(monkeypatch, capsys):
    """The toy's pictures get brighter by 0, 1 or 2 with the action: with the right arrow held, by 2 each step."""
    env = make_env("TinyCatch-v0")
    agent = ToyAgent(ToyConfig(), env.observation_space, env.action_space)
    starts = {
        "image": np.full((1, 2, 8, 8, 3), 10, np.uint8),
        "prev_action": np.zeros((1, 2, 3), np.float32),
        "reward": np.zeros((1, 2), np.float32),
        "is_first": np.array([[True, False]]),
    }
    steps, events = itertools.count(), []

    def watch(reward, over):
        if next(steps) == 5:
            events.append(pygame.event.Event(pygame.QUIT))

    events.append(pygame.event.Event(pygame.KEYDOWN, key=RIGHT))
    monkeypatch.setattr(pygame.event, "get", lambda: [events.pop()] if events else [])
    shown, step = [], playing.DreamEnv.step

    def spy(self, action):
        result = step(self, action)
        shown.append((action, int(result[0][0, 0, 0])))
        return result

    monkeypatch.setattr(playing.DreamEnv, "step", spy)
    play_dream(agent, starts, "TinyCatch-v0", env, temperature=1.0, watch=watch)
    assert [action for action, _ in shown] == [2] * 6
    assert np.diff([brightness for _, brightness in shown]).tolist() == [2] * 5
    assert "left, right" in capsys.readouterr().out


def test_without_a_display_there_is_one_line(monkeypatch):
    def no_window(*args, **options):
        raise pygame.error("No available video device")

    monkeypatch.setattr(playing, "play", no_window)
    env = make_env("TinyCatch-v0")
    agent = ToyAgent(ToyConfig(), env.observation_space, env.action_space)
    starts = {"image": np.zeros((1, 1, 8, 8, 3), np.uint8), "reward": np.zeros((1, 1))}
    with pytest.raises(UserError, match="cannot open a window to play in: No available video device"):
        play_dream(agent, starts, "TinyCatch-v0", env, 1.0)
