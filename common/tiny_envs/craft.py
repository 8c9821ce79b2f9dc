"""TinyCraft-v0: cross an island to the diamond block, gather wood and gold on the way.

- image: the 5 x 5 cells around the player, 12 pixels each, seen from above.
- vector: float32 (5,): compass to the goal as cos and sin (to the right, downwards; zeros on the goal), its
  distance as a share of the map's diagonal, and the wood and the gold gathered as shares of what the map
  holds.
- action: Discrete(6): 0 nothing, 1 up, 2 down, 3 left, 4 right, 5 collect. Moving turns the player, also
  where the way is blocked; collect takes the tree or the gold that the player faces, and leaves grass.
- reward: +0.25 for each tree or gold, +10 for reaching the goal, which ends the episode (terminated), and, as in
  MineRL's NavigateDense, 1 for each cell of straight-line distance that a step brings the player nearer to it, and as
  much less for what it leads away. 50 steps (truncated).
- level: the map. Water, rocks, trees and gold block the way, but the goal can always be reached without
  collecting.
"""

from collections import deque

import gymnasium
import numpy as np

from common.tiny_envs.base import IMAGE_SPACE, SIZE, Sprite, TinyEnv, TinyVectorEnv

GRASS, WATER, ROCK, TREE, GOLD, GOAL = range(6)
NOTHING, UP, DOWN, LEFT, RIGHT, COLLECT = range(6)
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])  # rows, columns

SIDE = 12  # cells of the island
BORDER = 3  # cells of water around it, so that every view lies inside the map
TREES, GOLDS = 6, 3
PATH = 8  # the way from start to goal is at least so long
GATHER_REWARD, GOAL_REWARD, NEARER_REWARD = 0.25, 10.0, 1.0

CELL = 12  # pixels
VIEW = 7  # cells drawn from side to side, of which the image is the middle
CROP = (VIEW * CELL - SIZE) // 2
MIDDLE = slice((SIZE - CELL) // 2, (SIZE + CELL) // 2)  # where the player is drawn

COLOURS = {
    "g": (112, 186, 84),  # grass
    "h": (96, 170, 72),
    "w": (52, 116, 208),  # water
    "v": (104, 162, 232),
    "s": (132, 132, 142),  # stone
    "t": (162, 162, 172),
    "u": (96, 96, 106),
    "l": (28, 108, 52),  # leaves
    "m": (48, 138, 70),
    "b": (112, 72, 40),  # bark
    "y": (252, 206, 44),  # gold
    "z": (255, 240, 150),
    "x": (196, 146, 20),
    "d": (90, 232, 236),  # diamond
    "e": (224, 255, 255),
    "f": (36, 160, 190),
    "r": (232, 72, 64),  # the player, with a backpack, and two eyes that look ahead
    "n": (150, 40, 60),
    "q": (255, 255, 255),
    "k": (40, 24, 40),
}
GRASS_PICTURE = """
    gggggggggggg
    gghggggggggg
    gghggggggghg
    gggggggggghg
    ggggghgggggg
    ggggghgggggg
    gggggggggggg
    ghgggggggghg
    ghgggggggghg
    gggggghggggg
    gggggghggggg
    gggggggggggg
"""
PICTURES = {
    GRASS: GRASS_PICTURE,
    WATER: """
    wwwwwwwwwwww
    wwwwwwwwwwww
    wvvvwwwwwwww
    wwwwwwwwwwww
    wwwwwwwvvvvw
    wwwwwwwwwwww
    wwwwwwwwwwww
    wwvvvvwwwwww
    wwwwwwwwwwww
    wwwwwwwwvvvw
    wwwwwwwwwwww
    wwwwwwwwwwww
    """,
    ROCK: """
    ....tttt....
    ..tttttttt..
    .tttttttssss
    .ttttsssssss
    tttsssssssss
    ttssssssssss
    ttssssssssss
    tsssssssssuu
    ssssssssssuu
    sssssssssuuu
    .sssssuuuuu.
    ..uuuuuuuu..
    """,
    TREE: """
    ....mmmm....
    ..mmmmmmll..
    .mmmmmmmlll.
    .mmmmmmllll.
    mmmmmmllllll
    mmmmmlllllll
    .mmmlllllll.
    .llllllllll.
    ..llllllll..
    ....bbbb....
    ....bbbb....
    ....bbbb....
    """,
    GOLD: """
    ............
    ......zz....
    .....zzyy...
    .....zyyx...
    ..z.zzyyx...
    .zzyzzyyx...
    .zyyzyyyxyy.
    .zyyzyyyxyyx
    .zyyzyyxxyyx
    zzyyzyyxyyyx
    zyyxzyyxyyxx
    .xxxxxxxxxx.
    """,
    GOAL: """
    kkkkkkkkkkkk
    keeeeeeeeedk
    keddddddddfk
    keddeeddddfk
    kedeedddddfk
    kedeeddddffk
    kedddddddffk
    kedddddfffdk
    kedddddffddk
    keddddddddfk
    kdfffffffffk
    kkkkkkkkkkkk
    """,
}
PLAYER_PICTURE = """
    ...kkkkkk...
    .kkkqrrqkkk.
    .krqqrrqqrk.
    krrqqrrqqrrk
    krrrrrrrrrrk
    krrrrrrrrrrk
    krrnnnnnnrrk
    krnnnnnnnnrk
    krnnnnnnnnrk
    .krnnnnnnrk.
    .kkrrrrrrkk.
    ...kkkkkk...
"""


def _tile(picture: str) -> np.ndarray:
    """The (CELL, CELL, 3) image of a picture on grass."""
    image = np.zeros((1, CELL, CELL, 3), np.uint8)
    for layer in (GRASS_PICTURE, picture):
        Sprite(layer, COLOURS).draw(image, 0, 0)
    return image[0]


TILES = np.stack([_tile(PICTURES[kind]) for kind in (GRASS, WATER, ROCK, TREE, GOLD, GOAL)])
QUARTER_TURNS = {UP: 0, DOWN: 2, LEFT: 1, RIGHT: 3}  # counter-clockwise, from the picture's upwards
PLAYER_TILES = np.stack([_tile(PLAYER_PICTURE)] * 5)
for facing, turns in QUARTER_TURNS.items():
    PLAYER_TILES[facing] = np.rot90(PLAYER_TILES[facing], turns)


def distances(free: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Steps from start to each cell over free ones (bool, rows x columns); -1 where there is no way."""
    steps = np.full(free.shape, -1)
    steps[start] = 0
    queue = deque([start])
    while queue:
        row, col = queue.popleft()
        for cell in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
            if free[cell] and steps[cell] < 0:
                steps[cell] = steps[row, col] + 1
                queue.append(cell)
    return steps


def make_map(rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """A random island: (cells, start, goal), where the goal can be reached and is not near.

    The heights of a smooth random landscape make water and rock; all else stands on random grass cells.
    """
    side = SIDE + 2 * BORDER
    while True:
        height = rng.normal(size=(SIDE, SIDE))
        for axis in (0, 1):
            height = height + np.roll(height, 1, axis)
        low, high = np.quantile(height, (0.14, 0.9))
        cells = np.full((side, side), WATER)
        cells[BORDER:-BORDER, BORDER:-BORDER] = np.where(height < low, WATER, np.where(height > high, ROCK, GRASS))
        grass = rng.permutation(np.argwhere(cells == GRASS))
        start, rest = tuple(map(int, grass[0])), grass[1:]
        cells[tuple(rest[:TREES].T)] = TREE
        cells[tuple(rest[TREES : TREES + GOLDS].T)] = GOLD
        far = np.argwhere(distances(cells == GRASS, start) >= PATH)
        if len(far):
            goal = tuple(map(int, rng.choice(far)))
            cells[goal] = GOAL
            return cells, start, goal


class TinyCraftVectorEnv(TinyVectorEnv):
    """N players, each on an island of its own."""

    single_observation_space = gymnasium.spaces.Dict(
        image=IMAGE_SPACE,
        vector=gymnasium.spaces.Box(np.float32([-1, -1, 0, 0, 0]), np.ones(5, np.float32), dtype=np.float32),
    )
    single_action_space = gymnasium.spaces.Discrete(6)
    max_episode_steps = 50

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        n = self.num_envs
        self.env = np.arange(n)
        self.cells = np.zeros((n, SIDE + 2 * BORDER, SIDE + 2 * BORDER), int)
        self.player = np.zeros((n, 2), int)  # row, column
        self.facing = np.zeros(n, int)  # UP, DOWN, LEFT or RIGHT
        self.goal = np.zeros((n, 2), int)
        self.gathered = np.zeros((n, 2), int)  # wood, gold

    def _start(self, i, rng):
        self.cells[i], self.player[i], self.goal[i] = make_map(rng)
        self.facing[i] = rng.integers(UP, RIGHT + 1)
        self.gathered[i] = 0

    def _advance(self, action):
        moves = (action != NOTHING) & (action != COLLECT)
        self.facing = np.where(moves, action, self.facing)
        ahead = (self.env, *(self.player + MOVES[self.facing]).T)
        kind = self.cells[ahead]
        goes = moves & ((kind == GRASS) | (kind == GOAL))
        before = self._distance()
        self.player += goes[:, None] * MOVES[self.facing]
        nearer = before - self._distance()

        taken = (action == COLLECT)[:, None] & (kind[:, None] == (TREE, GOLD))
        self.gathered += taken
        self.cells[ahead] = np.where(taken.any(1), GRASS, kind)
        arrived = goes & (kind == GOAL)
        return GATHER_REWARD * taken.any(1) + GOAL_REWARD * arrived + NEARER_REWARD * nearer, arrived

    def _distance(self) -> np.ndarray:
        """Straight-line distance (N,) to the goal in cells."""
        return np.hypot(*(self.goal - self.player).T)

    def _draw(self):
        window = self.player[:, :, None] + np.arange(VIEW) - VIEW // 2
        kinds = self.cells[self.env[:, None, None], window[:, 0, :, None], window[:, 1, None, :]]
        tiles = TILES.take(kinds, axis=0)  # (N, VIEW, VIEW, CELL, CELL, 3)
        whole = tiles.swapaxes(2, 3).reshape(-1, VIEW * CELL, VIEW * CELL, 3)
        images = np.ascontiguousarray(whole[:, CROP : CROP + SIZE, CROP : CROP + SIZE])
        images[:, MIDDLE, MIDDLE] = PLAYER_TILES[self.facing]
        return images

    def _observe(self):
        to_goal = (self.goal - self.player)[:, ::-1]  # right, down
        distance = self._distance()[:, None]
        shares = distance / (SIDE * np.sqrt(2)), self.gathered / (TREES, GOLDS)
        vector = np.concatenate([to_goal / np.maximum(distance, 1), *shares], 1)
        return {"image": self._draw(), "vector": vector.astype(np.float32)}

    def scripted_action(self):
        """The nearest tree or gold while time remains to reach the goal from there, then the goal."""
        return np.array([self._scripted(i) for i in range(self.num_envs)])

    def _scripted(self, i: int) -> int:
        if self.ended[i]:
            return NOTHING  # the action is ignored
        cells, player, goal = self.cells[i], tuple(self.player[i]), tuple(self.goal[i])
        grass = cells == GRASS
        from_player = distances(grass, player)
        from_goal = distances(grass, goal)
        time = self.max_episode_steps - self.steps[i]
        best, target = time, None  # of the ways to a cell beside something to gather, the shortest
        for row, col in np.argwhere((cells == TREE) | (cells == GOLD)):
            for move in (UP, DOWN, LEFT, RIGHT):
                beside = (row - MOVES[move, 0], col - MOVES[move, 1])
                way = from_player[beside]
                if 0 <= way < best and 0 <= from_goal[beside] <= time - way - 2:  # 2: turn and collect
                    best, target, last = way, beside, move
        if target == player:
            return COLLECT if self.facing[i] == last else last
        to_target = distances(grass, target) if target else from_goal
        # Cells without a way count -1, which is not a step nearer to the target.
        nearer = to_target[player] - 1
        return next(m for m in (UP, DOWN, LEFT, RIGHT) if to_target[tuple(player + MOVES[m])] == nearer)


class TinyCraftEnv(TinyEnv):
    """One player."""

    vector_class = TinyCraftVectorEnv
