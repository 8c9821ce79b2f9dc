"""TinyReacher-v0: move the ball onto the goal and stay there.

- image: a red ball (12 pixels) on a field with a green goal (16 pixels).
- action: Box(-1, 1, (2,)): velocity to the right and downwards; 1 moves by 0.12 of the field's side.
- reward: 1 - distance between the two after the step, in sides of the field. 25 steps (truncated, never
  terminated).
- level: where ball and goal begin.
"""

import gymnasium
import numpy as np

from common.tiny_envs.base import SIZE, Sprite, TinyEnv, TinyVectorEnv

SPEED = 0.12
MARGIN = 8  # pixels between the field's edge and the image's: all of ball and goal is always in sight

FLOOR, LINE = (34, 38, 66), (52, 58, 92)
BALL_SPRITE = Sprite(
    """
    ....rrrr....
    ..rrrrrrrr..
    .rrwwrrrrrr.
    .rwwwrrrrrr.
    rrwwrrrrrrrr
    rrrrrrrrrrrr
    rrrrrrrrrrrd
    rrrrrrrrrrdd
    .rrrrrrrrdd.
    .rrrrrrrddd.
    ..rrrrddd...
    ....dddd....
    """,
    {"r": (240, 84, 72), "w": (255, 190, 180), "d": (190, 50, 48)},
)
GOAL_SPRITE = Sprite(
    """
    .gggggggggggggg.
    gggggggggggggggg
    gggggggggggggggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggllllllllllggg
    gggggggggggggggg
    gggggggggggggggg
    .gggggggggggggg.
    """,
    {"g": (70, 214, 120), "l": (36, 120, 76)},
)
FIELD = np.full((SIZE, SIZE, 3), FLOOR, np.uint8)
FIELD[::16] = FIELD[:, ::16] = LINE


class TinyReacherVectorEnv(TinyVectorEnv):
    """N balls and goals."""

    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    max_episode_steps = 25

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ball = np.zeros((self.num_envs, 2))  # x, y in [0, 1]
        self.goal = np.zeros((self.num_envs, 2))

    def _start(self, i, rng):
        self.ball[i] = rng.uniform(size=2)
        self.goal[i] = rng.uniform(size=2)

    def _advance(self, action):
        self.ball = np.clip(self.ball + SPEED * action, 0, 1)
        return 1 - np.hypot(*(self.goal - self.ball).T), np.zeros(self.num_envs, bool)

    def _draw(self):
        images = FIELD[None].repeat(self.num_envs, 0)
        for sprite, half, place in ((GOAL_SPRITE, 8, self.goal), (BALL_SPRITE, 6, self.ball)):
            corner = np.rint(MARGIN + (SIZE - 2 * MARGIN) * place).astype(int) - half
            sprite.draw(images, *corner.T)
        return images

    def scripted_action(self):
        """Straight to the goal along each axis, as fast as possible."""
        return np.clip((self.goal - self.ball) / SPEED, -1, 1).astype(np.float32)


class TinyReacherEnv(TinyEnv):
    """One ball and goal."""

    vector_class = TinyReacherVectorEnv
