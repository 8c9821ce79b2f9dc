"""What a random and a near-optimal policy earn in the built-in environments.

`python -m common.tiny_envs` measures them again and prints the table.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np


class Score(NamedTuple):
    """Mean return of an episode (undiscounted sum of rewards)."""

    random: float  # uniformly random actions
    optimal: float  # the scripted policy, which sees the true state

    def normalise(self, episode_return: float) -> float:
        """0 for the random policy, 1 for the scripted one."""
        return (episode_return - self.random) / (self.optimal - self.random)


# Means of 1000 episodes, seeds 0..999: the table that `python -m common.tiny_envs` prints. The scripted
# policy of TinyCraft knows the whole map, so that no agent, which sees 5 x 5 cells of it, can be expected
# to gather as much.
SCORES = {
    "TinyCatch-v0": Score(random=-0.42, optimal=1.0),
    "TinyReacher-v0": Score(random=11.94, optimal=24.07),
    "TinyRacer-v0": Score(random=-7.29, optimal=100.74),
    "TinyCraft-v0": Score(random=0.59, optimal=19.44),
}


def scripted_action(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> np.ndarray:
    """The near-optimal action for a built-in environment, wrapped or not; (N, ...) for a batch."""
    return env.unwrapped.scripted_action()


def episode_returns(
    env_id: str, policy: Callable[[gymnasium.vector.VectorEnv], np.ndarray], seeds: Sequence[int]
) -> np.ndarray:
    """The returns (len(seeds),) of one episode for each seed; policy maps the batch to its actions."""
    envs = gymnasium.make_vec(env_id, num_envs=len(seeds), vectorization_mode="vector_entry_point")
    envs.reset(seed=list(seeds))
    envs.action_space.seed(seeds[0])
    returns, running = np.zeros(len(seeds)), np.ones(len(seeds), bool)
    while running.any():
        _, reward, terminated, truncated, _ = envs.step(policy(envs))
        returns += reward * running
        running &= ~(terminated | truncated)
    return returns


def measure_scores(env_id: str, episodes: int = 1000, first_seed: int = 0) -> Score:
    """Mean returns of the random and the scripted policy over episodes with a seed each."""
    batches = np.array_split(np.arange(first_seed, first_seed + episodes), -(-episodes // 100))

    def mean_return(policy):
        return float(np.concatenate([episode_returns(env_id, policy, b.tolist()) for b in batches]).mean())

    return Score(random=mean_return(lambda envs: envs.action_space.sample()), optimal=mean_return(scripted_action))
