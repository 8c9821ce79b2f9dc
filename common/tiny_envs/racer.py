"""TinyRacer-v0: follow a winding road, seen from above, in the spirit of CarRacing.

- image: the camera is fixed to the car, which stands near the lower edge and looks up; the world scrolls.
- action: Box(-1, 1, (2,)): steer (-1 left, 1 right) and throttle, the speed aimed at (-1 stand, 0 half,
  1 full).
- reward: +1 for each new tile of the road, -0.1 a step, -10 for leaving the road by far, which ends the
  episode (terminated). 200 steps (truncated). At full speed that makes about 100.
- level: a closed road with bends to both sides, longer than can be driven in 200 steps.

Lengths are in pixels of the image, which are also the units of the world; speeds in pixels a step.
"""

import gymnasium
import numpy as np

from common.tiny_envs.base import SIZE, Sprite, TinyEnv, TinyVectorEnv

LAP = 720  # length of the road: one centre point a pixel
TILE = 5  # length of a tile
HALF_WIDTH = 10.0  # of the road
LIMIT = 20.0  # distance from the centre line at which the episode ends
MIN_RADIUS = 22.0  # of the road's bends
MAP = 448  # side of the square map

FULL_SPEED = 3.0
RESPONSE = 0.2  # share of the way to the aimed speed made in one step
GRASS_SPEED = 0.4  # speed on grass as a share of that on the road
MAX_STEER = 1 / 12  # curvature of the tightest turn of the car

STEP_COST, LEAVING_COST = 0.1, 10.0

COLOURS = np.array(
    [
        (86, 168, 74),  # 0, 1 grass: a checkerboard
        (74, 150, 64),
        (128, 130, 138),  # 2, 3 road: arrows that point forward
        (104, 106, 116),
        (214, 58, 52),  # 4, 5 kerb
        (240, 240, 240),
    ],
    np.uint8,
)
# The colours of two neighbouring pixels, at index left + 256 * right: a picture takes half as many look-ups.
PAIRS = np.zeros((len(COLOURS), 256, 6), np.uint8)
PAIRS[:, : len(COLOURS), :3] = COLOURS
PAIRS[:, : len(COLOURS), 3:] = COLOURS[:, None]
PAIRS = PAIRS.reshape(-1, 6)
ANGLE = np.linspace(0, 2 * np.pi, 361)
GRASS = (np.add.outer(np.arange(MAP) // 16, np.arange(MAP) // 16) % 2).astype(np.uint8)

# The road is painted on the map as a ribbon of fine points: s along it, d across it, half a pixel apart.
S = np.arange(0, LAP, 0.5)
D = np.arange(-HALF_WIDTH, HALF_WIDTH + 0.5, 0.5, np.float32)
RIBBON = 2 + ((S[:, None] + np.abs(D)) // (2 * TILE) % 2).astype(np.uint8)
KERB = np.abs(D) > HALF_WIDTH - 2
RIBBON[:, KERB] = (4 + S // (2 * TILE) % 2).astype(np.uint8)[:, None]

CAR = Sprite(
    """
    ...rrrr...
    ..rrrrrr..
    kkryyyyrkk
    kkryyyyrkk
    kkrrrrrrkk
    ..rrrrrr..
    ..rbbbbr..
    ..rbbbbr..
    ..rrrrrr..
    kkrrrrrrkk
    kkryyyyrkk
    kkryyyyrkk
    ..rrrrrr..
    .rrrrrrrr.
    """,
    {"r": (250, 214, 40), "y": (255, 240, 140), "k": (24, 24, 28), "b": (40, 70, 110)},
)
CAR_ROW, CAR_COL = 50, 32  # where the car's centre is in the image
AHEAD = CAR_ROW - np.arange(SIZE, dtype=np.float32) - 0.5  # of the car, for each row of the image
RIGHT = np.arange(SIZE, dtype=np.float32) - CAR_COL + 0.5  # of the car, for each column


def make_road(rng: np.random.Generator) -> np.ndarray:
    """The centre line of a random closed road: (LAP, 2) points x, y, one pixel apart, on the map.

    A circle with waves. Of some strengths of the waves, the strongest is taken that has no bend below
    MIN_RADIUS.
    """
    k = np.arange(2, 8)
    size = rng.uniform(0.3, 1, 6) / k
    phase = np.outer(k, ANGLE) + rng.uniform(0, 2 * np.pi, 6)[:, None]
    strength = np.array([1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])[:, None]
    r = 1 + strength * (size @ np.cos(phase))  # the radius as a function of the angle, and its derivatives
    dr = strength * (-(size * k) @ np.sin(phase))
    ddr = strength * (-(size * k**2) @ np.cos(phase))
    pace = np.hypot(r, dr)  # length per angle
    curvature = np.abs(r**2 + 2 * dr**2 - r * ddr) / (pace * pace * pace)  # not ** 3, which is slow
    scale = LAP / (2 * np.pi * pace[:, :-1].mean(1))
    tightest = curvature.max(1) / scale
    best = int(np.argmax(tightest < 1 / MIN_RADIUS))
    length = np.append(0, np.cumsum(pace[best, 1:] + pace[best, :-1]))
    angle = np.interp(np.arange(LAP) / LAP, length / length[-1], ANGLE)
    radius = scale[best] * np.interp(angle, ANGLE, r[best])
    turn = rng.choice((-1, 1))  # clockwise or not
    road = radius[:, None] * np.stack([np.cos(angle), turn * np.sin(angle)], -1)
    return road + MAP / 2 - (road.max(0) + road.min(0)) / 2


def make_map(road: np.ndarray) -> np.ndarray:
    """Paint a road, (LAP, 2), on grass: (MAP, MAP) uint8 indices into COLOURS."""
    nodes = np.append(road, road[:1], 0)
    x, y = (np.interp(S, np.arange(LAP + 1), nodes[:, i]).astype(np.float32) for i in (0, 1))
    dx, dy = (np.roll(p, -2) - np.roll(p, 2) for p in (x, y))  # central difference over 2 pixels
    length = np.hypot(dx, dy)
    col = x[:, None] - np.outer(dy / length, D)
    row = y[:, None] + np.outer(dx / length, D)
    painted = GRASS.copy()
    painted.ravel()[row.astype(np.intp) * MAP + col.astype(np.intp)] = RIBBON
    return painted


class TinyRacerVectorEnv(TinyVectorEnv):
    """N cars, each on a road of its own."""

    single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    max_episode_steps = 200

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        n = self.num_envs
        self.env = np.arange(n)
        self.road = np.zeros((n, LAP, 2))
        self.map = np.zeros((n, MAP, MAP), np.uint8)
        self.visited = np.zeros((n, LAP // TILE), bool)  # tiles
        self.place = np.zeros(n, int)  # index of the centre point nearest to the car
        self.position = np.zeros((n, 2))
        self.heading = np.zeros(n)  # 0 is +x; it grows clockwise, as y grows downwards
        self.speed = np.zeros(n)

    def _start(self, i, rng):
        self.road[i] = make_road(rng)
        self.map[i] = make_map(self.road[i])
        self.visited[i] = False
        self.visited[i, 0] = True  # no reward for the tile it stands on
        self.place[i] = 0
        self.position[i] = self.road[i, 0]
        self.heading[i] = np.arctan2(*(self.road[i, 1] - self.road[i, 0])[::-1])
        self.speed[i] = 0

    def _advance(self, action):
        steer, throttle = action.T
        aimed = FULL_SPEED * (throttle + 1) / 2
        aimed = np.where(self.distance() > HALF_WIDTH, GRASS_SPEED * aimed, aimed)
        self.speed += RESPONSE * (aimed - self.speed)
        self.heading += self.speed * MAX_STEER * steer
        self.position += self.speed[:, None] * np.stack([np.cos(self.heading), np.sin(self.heading)], -1)

        near = (self.place[:, None] + np.arange(-8, 9)) % LAP  # faster than the car, short of the next bend
        offset = self.road[self.env[:, None], near] - self.position[:, None]
        self.place = near[self.env, (offset**2).sum(-1).argmin(-1)]
        distance = self.distance()
        tile = self.place // TILE
        new = (distance <= HALF_WIDTH) & ~self.visited[self.env, tile]
        self.visited[self.env, tile] |= new
        left = distance > LIMIT
        return new - STEP_COST - LEAVING_COST * left, left

    def distance(self) -> np.ndarray:
        """Distance (N,) of each car from the centre line."""
        return np.hypot(*(self.road[self.env, self.place] - self.position).T)

    def _draw(self):
        # The place of a pixel is position + ahead * forward + right * rightward: for each of its coordinates
        # the sum of a vector over the image's rows and one over its columns.
        cos, sin = np.cos(self.heading)[:, None], np.sin(self.heading)[:, None]
        x, y = self.position.T[:, :, None]
        col_of_row, col_of_col = (p.astype(np.float32) for p in (x + cos * AHEAD, -sin * RIGHT))
        row_of_row, row_of_col = (p.astype(np.float32) for p in (y + sin * AHEAD, cos * RIGHT))
        images = np.empty((self.num_envs, SIZE, SIZE, 3), np.uint8)
        for n in range(self.num_envs):  # one at a time: that stays in the cache
            col = np.add.outer(col_of_row[n], col_of_col[n]).astype(np.int32)
            row = np.add.outer(row_of_row[n], row_of_col[n]).astype(np.int32)
            seen = self.map[n].ravel().take(row * MAP + col, mode="clip")
            images[n] = PAIRS.take(seen.view("<u2"), axis=0).reshape(SIZE, SIZE, 3)
        CAR.draw(images, x=CAR_COL - 5, y=CAR_ROW - 7)
        return images

    def scripted_action(self):
        """Full speed, on the arc to the point 42 pixels ahead on the centre line, which cuts the bends."""
        target = self.road[self.env, (self.place + 42) % LAP] - self.position
        angle = np.arctan2(target[:, 1], target[:, 0]) - self.heading
        curvature = 2 * np.sin(angle) / np.hypot(*target.T)
        steer = np.clip(curvature / MAX_STEER, -1, 1)
        return np.stack([steer, np.ones(self.num_envs)], -1).astype(np.float32)


class TinyRacerEnv(TinyEnv):
    """One car."""

    vector_class = TinyRacerVectorEnv
