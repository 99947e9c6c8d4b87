"""A table seen from above, on which a round pusher pushes objects of random shapes and colours.

Reward per step is minus the distance of the first object to its goal, a ring of its colour; a step
is a success within 0.08 of it; the episode is 100 steps. Mean return over 100 seeds:
expert -14.7, uniformly random actions -67.1.
"""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np

from ..errors import EnvSettingsError
from .base import Task, make_action_box
from .canvas import Canvas
from .contacts import Body, Shape, find_body_contact, find_disc_contact, find_wall_contact

MOVE = 0.08  # distance that a full action moves the pusher along each axis
SUBSTEPS = 4  # of one move
RADIUS = 0.08  # of the pusher
TABLE = 0.92  # largest |x| and |y| of the pusher
LIP = 0.75  # largest |x| and |y| of an object: the pusher gets behind it everywhere
ROUNDS = 6  # of resolving contacts, in each substep
OVERLAP = 0.004  # largest that a substep may leave; else it is undone
MAX_OBJECTS = 3
MAX_CORNERS = 6
GOAL_EDGE = 0.45  # largest |x| and |y| of the goal
MIN_DISTANCE = 0.4  # between the first object and its goal at the start
NEAR = 0.03  # gap between pusher and object at the start, with start_near
WITHIN = 0.08  # distance to the goal that is a success
CLOSE = 0.02  # distance to the goal at which the expert rests
AROUND = 0.34  # distance from an object's centre at which the expert goes round it
WALLS = tuple(((-LIP * x, -LIP * y), (x, y)) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)))

Pose = tuple[float, float, float]


class Pushing(Task):
    """The state is pusher x, y; goal x, y; for each object x, y, angle; and for each its shape.

    A shape is its colour (3), its number of corners, and x, y of up to six corners. The action
    moves the pusher in x and y. An object has no inertia: it moves and turns while it is touched.
    """

    episode_steps = 100

    def __init__(
        self,
        size: tuple[int, int] = (64, 64),
        obs: str = "pixels",
        objects: int = 1,
        goal: bool = True,
        shapes: int | None = None,
        start_near: bool = False,
    ):
        """`objects`: how many. `goal`: whether there is one; without, every reward is 0. `shapes`:
        a seed of the shapes and colours of all episodes. `start_near`: beside an object.
        """
        if not isinstance(objects, int) or not 1 <= objects <= MAX_OBJECTS:
            raise EnvSettingsError(
                f"env.kwargs.objects must be 1 to {MAX_OBJECTS}, not {objects!r}"
            )
        if shapes is not None and (not isinstance(shapes, int) or shapes < 0):
            raise EnvSettingsError(f"env.kwargs.shapes must be a seed or none, not {shapes!r}")
        for key, flag in (("goal", goal), ("start_near", start_near)):
            if not isinstance(flag, bool):
                raise EnvSettingsError(f"env.kwargs.{key} must be true or false, not {flag!r}")
        self.vector_size = 2 + 4 * objects + 2 * goal
        super().__init__(size, obs)
        self.action_space = make_action_box(2)
        self.has_goal, self.shapes_seed, self.start_near = goal, shapes, start_near
        self.pusher, self.goal = (0.0, 0.0), (0.0, 0.0)
        square = Shape(((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)), (255, 255, 255))
        self.bodies = [Body(square, 0.0, 0.0, 0.0) for _ in range(objects)]

    def start(self, generator: np.random.Generator) -> None:
        fixed = self.shapes_seed is not None
        drawing = np.random.default_rng(self.shapes_seed) if fixed else generator
        shapes = [sample_shape(drawing) for _ in self.bodies]
        while True:
            self.bodies = [Body(shape, *sample_pose(generator)) for shape in shapes]
            self.goal = sample_point(generator, GOAL_EDGE)
            beside = int(generator.integers(len(shapes)))
            if self.start_near:
                self.pusher = sample_point_beside(self.bodies[beside], generator)
            else:
                self.pusher = sample_point(generator, TABLE)
            if self.is_free(0.0) and self.measure_gap() >= MIN_DISTANCE:
                return

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        dx, dy = (MOVE * min(max(float(a), -1.0), 1.0) / SUBSTEPS for a in action)
        for _ in range(SUBSTEPS):
            pusher, poses = self.pusher, [(b.x, b.y, b.angle) for b in self.bodies]
            touched = self.move_pusher(dx, dy)
            if touched and not self.is_free(OVERLAP):
                self.pusher = pusher
                for body, pose in zip(self.bodies, poses, strict=True):
                    body.place(*pose)
                break
        return -self.measure_gap() if self.has_goal else 0.0, False

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.has_goal:
            info["success"] = self.measure_gap() <= WITHIN
        return obs, reward, terminated, truncated, info

    def measure_gap(self) -> float:
        """Return the distance of the first object to its goal."""
        return math.hypot(self.bodies[0].x - self.goal[0], self.bodies[0].y - self.goal[1])

    def move_pusher(self, dx: float, dy: float) -> bool:
        """Move the pusher and what it pushes; return whether it touched anything.

        What then still stands in its way stops it.
        """
        x, y = self.pusher
        moved = clip_to_table(x + dx), clip_to_table(y + dy)
        dx, dy = moved[0] - x, moved[1] - y
        (x, y), touched = moved, False
        for i in range(ROUNDS):
            pushes = False
            for body in self.bodies:
                contact = find_disc_contact(x, y, RADIUS, body)
                if contact is not None:
                    nx, ny = contact.normal
                    ahead, across = dx * nx + dy * ny, dy * nx - dx * ny
                    # Only what the pusher did inside the object drags it along, and only once.
                    slides = i == 0 and ahead > contact.depth
                    body.push(contact, across * contact.depth / ahead if slides else 0.0)
                    pushes = True
            pushes = self.separate_bodies(x, y) or pushes
            touched = touched or pushes
            if not pushes:
                break
        for body in self.bodies:
            contact = find_disc_contact(x, y, RADIUS, body)
            if contact is not None:
                x, y = x - contact.depth * contact.normal[0], y - contact.depth * contact.normal[1]
        self.pusher = x, y
        return touched

    def separate_bodies(self, x: float, y: float) -> bool:
        """Let walls push objects, and objects others that are farther from the pusher."""
        pushes = False
        order = sorted(self.bodies, key=lambda b: (b.x - x) ** 2 + (b.y - y) ** 2)
        for i, body in enumerate(order):
            for nearer in order[:i]:
                contact = find_body_contact(nearer, body)
                if contact is not None:
                    body.push(contact)
                    pushes = True
            if abs(body.x) + body.shape.reach > LIP or abs(body.y) + body.shape.reach > LIP:
                for wall in WALLS:
                    contact = find_wall_contact(*wall, body.outline)
                    if contact is not None:
                        body.push(contact)
                        pushes = True
        return pushes

    def is_free(self, tolerance: float) -> bool:
        """Say whether pusher, objects and walls overlap by at most the tolerance."""
        contacts = [find_disc_contact(*self.pusher, RADIUS, body) for body in self.bodies]
        for i, body in enumerate(self.bodies):
            contacts += [find_body_contact(other, body) for other in self.bodies[:i]]
            contacts += [find_wall_contact(*wall, body.outline) for wall in WALLS]
        return all(contact is None or contact.depth <= tolerance for contact in contacts)

    def take_shapes(self, other: Pushing) -> bool:
        """Give the objects the shapes of another task's; say whether nothing overlaps."""
        self.bodies = [
            Body(theirs.shape, own.x, own.y, own.angle)
            for own, theirs in zip(self.bodies, other.bodies, strict=True)
        ]
        return self.is_free(0.0)

    def state(self) -> np.ndarray:
        poses = [value for body in self.bodies for value in (body.x, body.y, body.angle)]
        shapes = [value for body in self.bodies for value in list_numbers(body.shape)]
        return np.array([*self.pusher, *self.goal, *poses, *shapes])

    def set_state(self, state: np.ndarray) -> None:
        values, count = [float(value) for value in state], len(self.bodies)
        self.pusher, self.goal = (values[0], values[1]), (values[2], values[3])
        shapes = np.array(values[4 + 3 * count :]).reshape(count, -1).tolist()
        self.bodies = [
            Body(read_shape(shape), *values[4 + 3 * i : 7 + 3 * i])
            for i, shape in enumerate(shapes)
        ]

    def vector(self) -> np.ndarray:
        """Return pusher x, y; for each object x, y, sin, cos; and goal x, y if there is one."""
        poses = [
            value
            for body in self.bodies
            for value in (body.x, body.y, math.sin(body.angle), math.cos(body.angle))
        ]
        goal = self.goal if self.has_goal else ()
        return np.array([*self.pusher, *poses, *goal], np.float32)

    def make_canvas(self, size: tuple[int, int]) -> Canvas:
        board = Canvas(size, (30, 33, 40), (30, 33, 40))
        board.draw_box(0.0, 0.0, 0.99, 0.99, (66, 70, 80))
        board.draw_box(0.0, 0.0, LIP + 0.02, LIP + 0.02, (92, 97, 108))
        board.draw_box(0.0, 0.0, LIP - 0.01, LIP - 0.01, (44, 48, 57))
        board.save_background()
        return board

    def draw(self, board: Canvas) -> None:
        if self.has_goal:
            board.draw_ring(*self.goal, 0.13, 0.03, self.bodies[0].shape.colour)
        for body in self.bodies:
            board.draw_polygon(body.outline, body.shape.colour)
        board.draw_disc(*self.pusher, RADIUS, (244, 244, 240))


def sample_shape(generator: np.random.Generator) -> Shape:
    """Sample a bright convex polygon with three to six corners, all of them on an ellipse."""
    count = int(generator.integers(3, MAX_CORNERS + 1))
    long, short = generator.uniform(0.19, 0.25), generator.uniform(0.14, 0.19)
    angles = 2 * math.pi * (np.arange(count) + generator.uniform(-0.25, 0.25, count)) / count
    corners = np.stack([long * np.cos(angles), short * np.sin(angles)], 1)
    following = np.roll(corners, -1, 0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    centroid = ((corners + following) * cross[:, None]).sum(0) / (3 * cross.sum())
    r, g, b = colorsys.hsv_to_rgb(generator.uniform(), generator.uniform(0.55, 0.9), 0.95)
    colour = (int(255 * r), int(255 * g), int(255 * b))
    return Shape(tuple((x, y) for x, y in (corners - centroid).tolist()), colour)


def sample_point(generator: np.random.Generator, edge: float) -> tuple[float, float]:
    x, y = generator.uniform(-edge, edge, 2).tolist()
    return x, y


def sample_pose(generator: np.random.Generator) -> Pose:
    return *sample_point(generator, LIP), float(generator.uniform(-math.pi, math.pi))


def sample_point_beside(body: Body, generator: np.random.Generator) -> tuple[float, float]:
    """Sample a place of the pusher beside an object, on any of its sides."""
    angle = generator.uniform(-math.pi, math.pi)
    away = body.shape.reach + RADIUS + NEAR
    while True:
        x, y = body.x + away * math.cos(angle), body.y + away * math.sin(angle)
        away -= 0.01
        if find_disc_contact(x, y, RADIUS + NEAR, body) is not None:
            return clip_to_table(x), clip_to_table(y)


def count_objects(state: np.ndarray) -> int:
    """Return the number of objects of a state."""
    return (len(state) - 4) // (3 + 4 + 2 * MAX_CORNERS)


def list_numbers(shape: Shape) -> list[float]:
    """Return a shape as numbers, as the state has it."""
    corners = [value for corner in shape.corners for value in corner]
    count = len(shape.corners)
    return [*map(float, shape.colour), float(count), *corners, *[0.0] * 2 * (MAX_CORNERS - count)]


def read_shape(values: list[float]) -> Shape:
    """Return the shape of these numbers."""
    r, g, b, count = (round(value) for value in values[:4])
    corners = [(values[4 + 2 * i], values[5 + 2 * i]) for i in range(count)]
    return Shape(tuple(corners), (r, g, b))


def clip_to_table(x: float) -> float:
    return min(max(x, -TABLE), TABLE)


def expert(env: Task) -> np.ndarray:
    """Go round the first object to the side away from its goal, and push it there."""
    state = env.state()
    x, y, goal_x, goal_y, object_x, object_y = state[:6].tolist()
    gap = math.hypot(goal_x - object_x, goal_y - object_y)
    if gap < CLOSE:
        return np.zeros(2, np.float32)
    ahead_x, ahead_y = (goal_x - object_x) / gap, (goal_y - object_y) / gap
    # The pusher's place, seen from the object with its goal ahead
    ahead = (x - object_x) * ahead_x + (y - object_y) * ahead_y
    left = (y - object_y) * ahead_x - (x - object_x) * ahead_y
    if ahead < 0 and abs(left) < 0.05:
        forward, sideways = min(gap, MOVE), -2.0 * left
    else:
        bearing = math.atan2(left, -ahead)  # 0 behind the object
        bearing -= math.copysign(min(abs(bearing), 0.2), bearing)
        forward = -AROUND * math.cos(bearing) - ahead
        sideways = AROUND * math.sin(bearing) - left
    dx = forward * ahead_x - sideways * ahead_y
    dy = forward * ahead_y + sideways * ahead_x
    longest = max(abs(dx), abs(dy), MOVE)
    return np.array([dx / longest, dy / longest], np.float32)
