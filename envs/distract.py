"""Distractors: moving pictures, unrelated to the task, replace the background.

A background is a function of the episode's seed, of whether it is held out, and of the number of
steps since the reset. It has no other state, so an episode that is simulated again from its seed
and actions shows the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from .errors import EnvDataError, EnvSettingsError
from .tasks.canvas import Canvas
from .wrappers import place_side_by_side

KINDS = ("noise", "blobs", "both")
MIDDLE, CONTRAST = 118.0, 52.0  # mean and standard deviation of the noise, in grey levels
# The noise's amplitude is frequency^-FALLOFF; 1 looks grainy, 2 cloudy.
FALLOFF = 1.3
SHARED = 0.8  # share of the noise's variance that red, green and blue have in common
DRIFT = (0.2, 0.7)  # range of the noise's speed, in 64ths of the shorter side per step
FLICKER = (0.05, 0.12)  # range of the angle per step by which one noise picture fades to another
BLOBS = 4
RADIUS = (0.1, 0.24)  # of blobs, where the shorter side spans [-1, 1]
SPEED = (0.02, 0.07)  # of blobs per step


def make_fractal_noise(
    generator: np.random.Generator, size: tuple[int, int], count: int
) -> np.ndarray:
    """Make noise pictures (count, H, W) float32 of mean 0 and variance 1 that tile the plane."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(generator.standard_normal((count, height, width))) / frequency**FALLOFF
    fields = np.fft.irfft2(waves, size)
    return (fields / fields.std((1, 2), keepdims=True)).astype(np.float32)


class Noise:
    """Two coloured noise pictures that drift while fading into each other."""

    def __init__(self, generator: np.random.Generator, size: tuple[int, int]):
        self.height, self.width = size
        grey, colour = np.sqrt(SHARED), np.sqrt(1 - SHARED)
        fields = make_fractal_noise(generator, size, 8).reshape(2, 4, *size).transpose(0, 2, 3, 1)
        tiles = CONTRAST * (grey * fields[..., :1] + colour * fields[..., 1:])
        # At twice the size, any shifted picture is a view.
        self.tiles = np.pad(
            tiles, ((0, 0), (0, self.height + 1), (0, self.width + 1), (0, 0)), "wrap"
        )
        angle, speed = (
            generator.uniform(0, 2 * np.pi, 2),
            generator.uniform(*DRIFT, 2) * min(size) / 64,
        )
        # (2, 2) rows and columns per step
        self.velocity = np.stack([np.sin(angle), np.cos(angle)], 1) * speed[:, None]
        self.phase, self.turn = generator.uniform(0, 2 * np.pi), generator.uniform(*FLICKER)

    def paint(self, picture: np.ndarray, step: int) -> None:
        """Draw the noise of a step, with bilinear interpolation between pixels."""
        angle = self.phase + self.turn * step
        picture.fill(MIDDLE)
        for tile, velocity, share in zip(
            self.tiles, self.velocity, (np.cos(angle), np.sin(angle)), strict=True
        ):
            row, column = (
                float(velocity[0]) * step % self.height,
                float(velocity[1]) * step % self.width,
            )
            top, left = int(row), int(column)
            down, right = row - top, column - left
            for dy, dx, part in (
                (0, 0, (1 - down) * (1 - right)),
                (0, 1, (1 - down) * right),
                (1, 0, down * (1 - right)),
                (1, 1, down * right),
            ):
                y, x = top + dy, left + dx
                picture += np.float32(share * part) * tile[y : y + self.height, x : x + self.width]


class Blobs:
    """Coloured discs that move in straight lines and bounce off the picture's edge."""

    def __init__(self, generator: np.random.Generator, size: tuple[int, int]):
        self.reach = np.array([size[1], size[0]]) / min(size)
        self.start = generator.uniform(0, 4, (BLOBS, 2)) * self.reach
        angle, speed = generator.uniform(0, 2 * np.pi, BLOBS), generator.uniform(*SPEED, BLOBS)
        self.velocity = np.stack([np.cos(angle), np.sin(angle)], 1) * speed[:, None]
        self.radius = generator.uniform(*RADIUS, BLOBS).tolist()
        self.colour = generator.integers(0, 256, (BLOBS, 3)).tolist()

    def paint(self, board: Canvas, step: int) -> None:
        """Draw the blobs of a step."""
        where = (
            np.abs((self.start + self.velocity * step) % (4 * self.reach) - 2 * self.reach)
            - self.reach
        )
        for (x, y), radius, colour in zip(where.tolist(), self.radius, self.colour, strict=True):
            board.draw_disc(x, y, radius, colour)


class Background:
    """The moving pictures of one episode."""

    def __init__(self, generator: np.random.Generator, board: Canvas, kind: str):
        size = (board.height, board.width)
        self.board = board
        self.noise = Noise(generator, size) if kind != "blobs" else None
        self.blobs = Blobs(generator, size) if kind != "noise" else None
        self.plain = generator.integers(0, 256, 3).tolist()

    def draw(self, step: int) -> np.ndarray:
        """Draw the background (H, W, 3) of a step, float32 in [0, 255].

        The next call overwrites the result.
        """
        if self.noise:
            self.noise.paint(self.board.image, step)
        else:
            self.board.fill(self.plain)
        if self.blobs:
            self.blobs.paint(self.board, step)
        return np.clip(self.board.image, 0.0, 255.0, out=self.board.image)


class Distract(gymnasium.Wrapper):
    """Replace the picture's background by moving pictures.

    The innermost environment's `mask()` returns (H, W) in [0, 1], the share of each pixel of the
    last picture that belongs to the task and is kept; of several pictures by name, each of which
    has a background of its own. `strength` is the share of the background that is replaced: at 0
    none, at 1 all of it.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        name: str,
        strength: float = 1.0,
        kind: str = "both",
        held_out: bool = False,
    ):
        super().__init__(env)
        self.name, self.strength, self.kind, self.held_out = name, strength, kind, held_out
        self.mask = find_mask(env, name)
        space = env.observation_space
        self.by_name = isinstance(space, gymnasium.spaces.Dict)
        parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {"": space}
        shapes = {key: part.shape or () for key, part in sorted(parts.items())}
        shapes = {key: shape for key, shape in shapes.items() if len(shape) == 3}
        if not shapes:
            raise EnvSettingsError(
                f"{name}: distract: changes pictures, and with obs=state there are none"
            )
        grey = [key for key, shape in shapes.items() if shape[2] != 3]
        if grey:
            raise EnvSettingsError(
                f"{name}: distract: picture {grey[0]!r} has no 3 channels to colour"
            )
        self.boards = {k: Canvas((v[0], v[1]), (0, 0, 0), (0, 0, 0)) for k, v in shapes.items()}
        self.generator = np.random.default_rng()
        self.backgrounds: dict[str, Background] = {}
        self.seen: dict[str, np.ndarray] = {}  # the pictures observed last
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.generator = np.random.default_rng([int(self.held_out), seed])
        self.count = 0
        self.backgrounds = {}
        if self.strength:
            for key, board in self.boards.items():
                self.backgrounds[key] = Background(self.generator, board, self.kind)
        obs, info = self.env.reset(seed=seed, options=options)
        return self._distract_observation(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.count += 1
        return self._distract_observation(obs), reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the current picture with its background; several pictures are side by side."""
        if len(self.boards) > 1:
            return place_side_by_side(list(self.seen.values()))
        picture = np.asarray(self.env.render())
        return self._blend_backgrounds({next(iter(self.boards)): picture}).popitem()[1]

    def _distract_observation(self, obs: Any) -> Any:
        pictures = {key: obs[key] for key in self.boards} if self.by_name else {"": obs}
        self.seen = self._blend_backgrounds(pictures)
        return {**obs, **self.seen} if self.by_name else self.seen[""]

    def _blend_backgrounds(self, pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Blend the episode's backgrounds into pictures by name."""
        if not self.backgrounds:
            return pictures
        masks = self.mask()
        masks = masks if isinstance(masks, dict) else dict.fromkeys(pictures, masks)
        return {k: self._blend_background(k, image, masks[k]) for k, image in pictures.items()}

    def _blend_background(self, key: str, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blend the episode's background into a picture where its mask allows."""
        if mask.shape != image.shape[:2]:
            raise EnvDataError(
                f"{self.name}: its mask has shape {mask.shape}, its picture {image.shape[:2]}"
            )
        behind = self.backgrounds[key].draw(self.count)
        behind -= image
        behind *= np.repeat(self.strength * (1.0 - mask), 3).reshape(behind.shape)
        behind += image
        return np.rint(behind, out=behind).astype(np.uint8)


def find_mask(env: gymnasium.Env, name: str) -> Callable[[], Any]:
    """Return the innermost environment's `mask`; EnvSettingsError if it has none."""
    mask = getattr(env.unwrapped, "mask", None)
    if not callable(mask):
        raise EnvSettingsError(
            f"{name} gives no mask of what belongs to its task, so distract: cannot tell what "
            f"to leave alone; take a "
            "built-in, a dmc: task, or give your class a method mask() -> (H, W) in [0, 1]"
        )
    return mask
