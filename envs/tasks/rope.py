"""A rope on a table, seen from above, to be laid into a shape by picking it up at points and
moving them.

The goal shape is not drawn: it is there to measure by, in the state and in the reward, and an
agent is to be told of it by a goal picture. Reward per step is 1 / (1 + (distance / 0.1)^2), where
distance is the mean over the rope's points of how far each is from its place in the goal shape;
the episode is 60 steps. Mean return over 100 seeds: expert 51.1, uniformly random actions 1.4.
"""

from __future__ import annotations

import math

import numpy as np

from .base import Task, action_box
from .canvas import Canvas

POINTS = 12
LINK = 0.12  # between neighbouring points
MOVE = 0.15  # how far a full action takes the picked point along each axis
PULLS = 3  # parts that a move is done in
BEND = 0.7  # most radians between neighbouring links
RIM = 0.92  # of the table
MIN_DISTANCE = 0.3  # between start and goal
WIDTH = 0.1  # distance at which the reward is one half

Shape = list[tuple[float, float]]


class Rope(Task):
    """State: x and y of the 12 points, then of the goal's; action (which point, from end to end;
    its move in x, in y).

    Position-based dynamics without inertia: what is picked goes where it is moved, and each
    further point, outwards on both sides, is drawn or pushed along until its link has its length
    and no joint is bent too far.
    """

    episode_steps = 60
    vector_size = 4 * POINTS

    def __init__(self, size: tuple[int, int] = (64, 64), obs: str = "pixels"):
        super().__init__(size, obs)
        self.action_space = action_box(3)
        self.points: Shape = [(0.0, 0.0)] * POINTS
        self.goal: Shape = [(0.0, 0.0)] * POINTS

    def start(self, generator: np.random.Generator) -> None:
        while True:
            self.points, self.goal = lay(generator), lay(generator)
            if distance(self.points, self.goal) >= MIN_DISTANCE:
                return

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        where, dx, dy = (min(max(float(a), -1.0), 1.0) for a in action)
        pick = min(int((where + 1) / 2 * POINTS), POINTS - 1)
        self.points = moved(self.points, pick, MOVE * dx, MOVE * dy)
        return 1.0 / (1.0 + (distance(self.points, self.goal) / WIDTH) ** 2), False

    def state(self) -> np.ndarray:
        return np.array([*self.points, *self.goal]).ravel()

    def canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (62, 48, 40), (62, 48, 40))
        board.box(0.0, 0.0, 0.99, 0.99, (116, 92, 74))
        board.keep()
        return board

    def draw(self, board: Canvas) -> None:
        for i, (a, b) in enumerate(zip(self.points, self.points[1:], strict=False)):
            fade = i / (POINTS - 2)
            board.capsule(
                *a, *b, 0.06, (int(250 - 150 * fade), int(220 - 20 * fade), int(90 + 150 * fade))
            )
        board.disc(*self.points[0], 0.1, (235, 70, 50))


def distance(points: Shape, goal: Shape) -> float:
    """Mean distance between points and their places."""
    return sum(
        math.hypot(p[0] - g[0], p[1] - g[1]) for p, g in zip(points, goal, strict=True)
    ) / len(points)


def lay(generator: np.random.Generator) -> Shape:
    """A smoothly bent rope that lies on the table."""
    while True:
        knots = generator.uniform(-0.5, 0.5, 3)
        turns = np.interp(np.linspace(0, 2, POINTS - 2), range(3), knots)
        headings = generator.uniform(0, 2 * math.pi) + np.concatenate([[0.0], np.cumsum(turns)])
        links = LINK * np.stack([np.cos(headings), np.sin(headings)], 1)
        points = np.concatenate([[[0.0, 0.0]], np.cumsum(links, 0)])
        points += generator.uniform(-RIM, RIM, 2) - points.mean(0)
        if np.abs(points).max() <= RIM:
            return [(x, y) for x, y in points.tolist()]


def moved(points: Shape, pick: int, dx: float, dy: float) -> Shape:
    """The rope after the picked point went by (dx, dy), the others after it."""
    points = list(points)
    for _ in range(PULLS):
        x, y = points[pick]
        points[pick] = (inside(x + dx / PULLS), inside(y + dy / PULLS))
        follow(points, range(pick + 1, POINTS), -1)
        follow(points, range(pick - 1, -1, -1), 1)
    return points


def follow(points: Shape, order: range, before: int) -> None:
    """Bring the points in `order` after the one `before` each, in place."""
    for i in order:
        ax, ay = points[i + before]
        x, y = points[i][0] - ax, points[i][1] - ay
        length = math.hypot(x, y) or 1.0
        x, y = x / length, y / length
        j = i + 2 * before
        if 0 <= j < POINTS:
            x, y = straightened(x, y, ax - points[j][0], ay - points[j][1])
        points[i] = (inside(ax + LINK * x), inside(ay + LINK * y))


def straightened(x: float, y: float, u: float, v: float) -> tuple[float, float]:
    """The direction (x, y), turned until it is within BEND of (u, v)."""
    turn = math.atan2(u * y - v * x, u * x + v * y)
    if abs(turn) <= BEND:
        return x, y
    heading = math.atan2(v, u) + math.copysign(BEND, turn)
    return math.cos(heading), math.sin(heading)


def inside(x: float) -> float:
    return min(max(x, -RIM), RIM)


def expert(env: Task) -> np.ndarray:
    """Of all points, move the one that brings the rope nearest to the goal towards its place."""
    state = env.state().reshape(2, POINTS, 2).tolist()
    points, goal = ([(x, y) for x, y in shape] for shape in state)
    best, action = math.inf, (0.0, 0.0, 0.0)
    for pick in range(POINTS):
        dx, dy = (
            min(max(g - p, -MOVE), MOVE) for g, p in zip(goal[pick], points[pick], strict=True)
        )
        gap = distance(moved(points, pick, dx, dy), goal)
        if gap < best:
            best, action = gap, ((2 * pick + 1) / POINTS - 1, dx / MOVE, dy / MOVE)
    return np.array(action, np.float32)
