"""Quasi-static pushing of convex polygons on a table, by a disc, by walls and by each other.

A body moves only while something pushes it. Friction with the table turns the force at a contact
into a motion by the ellipsoidal limit surface (Lynch, Maekawa and Tanie 1992): the twist
(vx, vy, spin) is proportional to (fx, fy, torque / spread^2). Friction at the contact bounds the
force's direction by a cone: inside it the contact sticks, at its edge it slides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Point = tuple[float, float]
Polygon = list[Point]

FRICTION = 0.4  # coefficient of every contact
TOUCHING = 1e-6  # overlaps up to this count as none
PARALLEL = 0.01  # corners that reach as far as this differ in depth push by their middle


@dataclass(frozen=True)
class Shape:
    """A convex polygon around its centroid, corners counter-clockwise, and its colour."""

    corners: tuple[Point, ...]
    colour: tuple[int, int, int]
    reach: float = field(init=False)  # distance of the farthest corner
    spread2: float = field(init=False)  # mean square distance of its points from the centroid

    def __post_init__(self) -> None:
        area = moment = 0.0
        for (x0, y0), (x1, y1) in zip(self.corners, list_followers(self.corners), strict=True):
            cross = x0 * y1 - x1 * y0
            area += cross / 2
            squares = x0 * x0 + x0 * x1 + x1 * x1 + y0 * y0 + y0 * y1 + y1 * y1
            moment += cross * squares / 12
        object.__setattr__(self, "reach", max(math.hypot(x, y) for x, y in self.corners))
        object.__setattr__(self, "spread2", moment / area)


@dataclass(frozen=True)
class Contact:
    """Where and in which direction one body pushes another, and by how far they overlap."""

    point: Point
    normal: Point  # of unit length, into the pushed body
    depth: float


class Body:
    """A shape at a pose, whose outline on the table is kept."""

    def __init__(self, shape: Shape, x: float, y: float, angle: float):
        self.shape = shape
        self.place(x, y, angle)

    def place(self, x: float, y: float, angle: float) -> None:
        """Put the body at a pose."""
        self.x, self.y, self.angle = x, y, angle
        cos, sin = math.cos(angle), math.sin(angle)
        self.outline: Polygon = [
            (x + cos * a - sin * b, y + sin * a + cos * b) for a, b in self.shape.corners
        ]

    def push(self, contact: Contact, slide: float = 0.0) -> None:
        """Move until the overlap is resolved, to first order.

        What pushes moves along the normal by the depth, and across it by `slide`, to the left.
        """
        (px, py), (nx, ny) = contact.point, contact.normal
        x, y, spread2 = px - self.x, py - self.y, self.shape.spread2
        # Sticking: the motion whose velocity at the contact is that of what pushes.
        ux, uy = contact.depth * nx - slide * ny, contact.depth * ny + slide * nx
        whole = spread2 + x * x + y * y
        vx = ((spread2 + x * x) * ux + x * y * uy) / whole
        vy = (x * y * ux + (spread2 + y * y) * uy) / whole
        along, across = vx * nx + vy * ny, vy * nx - vx * ny  # of the force, up to a factor
        if abs(across) > FRICTION * along:
            # Sliding: the force lies on the edge of the cone, and the normal velocity is given.
            side = math.copysign(FRICTION, across)
            vx, vy = nx - side * ny, ny + side * nx
            turn = (x * vy - y * vx) / spread2
            scale = contact.depth / ((vx - turn * y) * nx + (vy + turn * x) * ny)
            vx, vy = scale * vx, scale * vy
        turn = (x * vy - y * vx) / spread2
        self.place(self.x + vx, self.y + vy, self.angle + turn)


def list_followers(corners: Polygon | tuple[Point, ...]) -> list[Point]:
    """Return the next corner of each."""
    return [*corners[1:], corners[0]]


def find_disc_contact(x: float, y: float, radius: float, body: Body) -> Contact | None:
    """Return how a disc pushes a body; None if they are apart."""
    away2 = (x - body.x) ** 2 + (y - body.y) ** 2
    if away2 >= (radius + body.shape.reach) ** 2:
        return None
    qx, qy, best2, inside = 0.0, 0.0, math.inf, True  # the outline's nearest point
    ax, ay = body.outline[-1]
    for bx, by in body.outline:
        dx, dy, rx, ry = bx - ax, by - ay, x - ax, y - ay
        share = (rx * dx + ry * dy) / (dx * dx + dy * dy)
        share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share
        gap2 = (rx - share * dx) ** 2 + (ry - share * dy) ** 2
        if gap2 < best2:
            qx, qy, best2 = ax + share * dx, ay + share * dy, gap2
        inside = inside and dx * ry > dy * rx
        ax, ay = bx, by
    gap = math.sqrt(best2)
    if not gap:
        return None  # without a direction; the disc's centre never gets there
    sign = -1.0 if inside else 1.0
    depth = radius - sign * gap
    if depth <= TOUCHING:
        return None
    return Contact((qx, qy), (sign * (qx - x) / gap, sign * (qy - y) / gap), depth)


def find_body_contact(pushing: Body, pushed: Body) -> Contact | None:
    """Return how one body pushes another, by the direction of least overlap; None if apart."""
    away2 = (pushing.x - pushed.x) ** 2 + (pushing.y - pushed.y) ** 2
    if away2 >= (pushing.shape.reach + pushed.shape.reach) ** 2:
        return None
    first, second = find_least_overlap(pushing, pushed), find_least_overlap(pushed, pushing)
    if first is None or second is None:
        return None
    if first.depth <= second.depth:
        return first
    (nx, ny), depth = second.normal, second.depth
    return Contact(second.point, (-nx, -ny), depth)


def find_least_overlap(body: Body, other: Body) -> Contact | None:
    """Return the overlap of `other` behind that edge of `body` behind which it is least."""
    least: Contact | None = None
    for (x0, y0), (x1, y1) in zip(body.outline, list_followers(body.outline), strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        contact = find_wall_contact(
            (x0, y0), ((y1 - y0) / length, (x0 - x1) / length), other.outline
        )
        if contact is None:
            return None
        if least is None or contact.depth < least.depth:
            least = contact
    return least


def find_wall_contact(wall: Point, normal: Point, outline: Polygon) -> Contact | None:
    """Return how a wall through a point, with this normal into the table, pushes a polygon."""
    nx, ny = normal
    offset = wall[0] * nx + wall[1] * ny
    depths = [offset - x * nx - y * ny for x, y in outline]
    depth = max(depths)
    if depth <= TOUCHING:
        return None
    deepest = [p for p, each in zip(outline, depths, strict=True) if each >= depth - PARALLEL]
    middle = (sum(x for x, _ in deepest) / len(deepest), sum(y for _, y in deepest) / len(deepest))
    return Contact(middle, normal, depth)
