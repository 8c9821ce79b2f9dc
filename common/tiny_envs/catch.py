"""TinyCatch-v0: catch the falling ball with the paddle.

- image: a ball (12 pixels) falls straight down, a paddle (16 x 8 pixels) slides along the lower edge.
- action: Discrete(3): 0 left, 1 stay, 2 right.
- reward: 0 until the ball reaches the paddle, then +1 if it is caught, -1 if not; that ends the episode
  (terminated) after 11 steps.
- level: the columns where ball and paddle begin.
"""

import gymnasium
import numpy as np

from common.tiny_envs.base import SIZE, Sprite, TinyEnv, TinyVectorEnv

BALL, PADDLE = 12, 16  # widths
PADDLE_TOP = 56
FALL, SLIDE = 4, 6  # pixels a step
REACH = 8  # caught if the centres are at most so far apart: the ball's centre is over the paddle

SKY = np.linspace((20, 24, 48), (58, 44, 92), SIZE).astype(np.uint8)[:, None].repeat(SIZE, 1)
BALL_SPRITE = Sprite(
    """
    ....oooo....
    ..oooooooo..
    .oowwoooooo.
    .owwwoooooo.
    oowwoooooooo
    oooooooooooo
    oooooooooood
    oooooooooodd
    .oooooooodd.
    .oooooooddd.
    ..ooooddd...
    ....dddd....
    """,
    {"o": (255, 168, 40), "w": (255, 226, 150), "d": (214, 122, 20)},
)
PADDLE_SPRITE = Sprite(
    """
    .cccccccccccccc.
    cccccccccccccccc
    cccccccccccccccc
    cccccccccccccccc
    bbbbbbbbbbbbbbbb
    bbbbbbbbbbbbbbbb
    bbbbbbbbbbbbbbbb
    .bbbbbbbbbbbbbb.
    """,
    {"c": (90, 214, 240), "b": (44, 148, 196)},
)


class TinyCatchVectorEnv(TinyVectorEnv):
    """N balls and paddles."""

    single_action_space = gymnasium.spaces.Discrete(3)
    max_episode_steps = 50  # never reached: the ball is down after 11 steps

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ball = np.zeros((self.num_envs, 2), int)  # left column, top row
        self.paddle = np.zeros(self.num_envs, int)  # left column

    def _start(self, i, rng):
        self.ball[i] = rng.integers(SIZE - BALL + 1), 0
        self.paddle[i] = rng.integers(SIZE - PADDLE + 1)

    def _advance(self, action):
        self.paddle = np.clip(self.paddle + SLIDE * (action - 1), 0, SIZE - PADDLE)
        self.ball[:, 1] = np.minimum(self.ball[:, 1] + FALL, PADDLE_TOP - BALL)
        down = self.ball[:, 1] == PADDLE_TOP - BALL
        caught = np.abs(self.offset()) <= REACH
        return np.where(down, np.where(caught, 1.0, -1.0), 0.0), down

    def offset(self) -> np.ndarray:
        """How many columns (N,) the ball's centre is to the right of the paddle's."""
        return self.ball[:, 0] + BALL // 2 - (self.paddle + PADDLE // 2)

    def _draw(self):
        images = SKY[None].repeat(self.num_envs, 0)
        PADDLE_SPRITE.draw(images, self.paddle, PADDLE_TOP)
        BALL_SPRITE.draw(images, *self.ball.T)
        return images

    def scripted_action(self):
        """Slide towards the ball until it is less than half a step away. Always catches it."""
        offset = self.offset()
        return 1 + np.sign(offset) * (2 * np.abs(offset) > SLIDE)


class TinyCatchEnv(TinyEnv):
    """One ball and paddle."""

    vector_class = TinyCatchVectorEnv
