"""The built-in environments: small, fast, drawn with numpy, and learned in minutes.

    TinyCatch-v0    3 actions     catch the falling ball
    TinyReacher-v0  2 continuous  move the ball onto the goal and stay
    TinyRacer-v0    2 continuous  follow a winding road
    TinyCraft-v0    6 actions     gather on the way to the diamond block; observes a compass besides the image

Importing this package registers them, so `gymnasium.make` and `gymnasium.make_vec` know them. Observations
are a Dict with `image` (64, 64, 3) uint8 (TinyCraft: and `vector` float32). Any integer seed is a new
level: to test generalisation, evaluate on seeds that were not trained on. `base.py` says how they are
built; each other file is one environment.
"""

import gymnasium

from common.tiny_envs.base import TinyEnv, TinyVectorEnv
from common.tiny_envs.catch import TinyCatchEnv, TinyCatchVectorEnv
from common.tiny_envs.craft import TinyCraftEnv, TinyCraftVectorEnv
from common.tiny_envs.racer import TinyRacerEnv, TinyRacerVectorEnv
from common.tiny_envs.reacher import TinyReacherEnv, TinyReacherVectorEnv
from common.tiny_envs.scores import SCORES, Score, episode_returns, measure_scores, scripted_action

for _env in (TinyCatchEnv, TinyReacherEnv, TinyRacerEnv, TinyCraftEnv):
    # No max_episode_steps here: the time limit is the environment's own, gymnasium need not add another.
    gymnasium.register(
        id=_env.__name__.removesuffix("Env") + "-v0",
        entry_point=f"{_env.__module__}:{_env.__name__}",
        vector_entry_point=f"{_env.__module__}:{_env.vector_class.__name__}",
    )

__all__ = [
    "SCORES",
    "Score",
    "TinyCatchEnv",
    "TinyCatchVectorEnv",
    "TinyCraftEnv",
    "TinyCraftVectorEnv",
    "TinyEnv",
    "TinyRacerEnv",
    "TinyRacerVectorEnv",
    "TinyReacherEnv",
    "TinyReacherVectorEnv",
    "TinyVectorEnv",
    "episode_returns",
    "measure_scores",
    "scripted_action",
]
