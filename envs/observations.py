"""Which entries of an environment's observation become pictures and vectors, by name.

An entry is a leaf of the observation space. Entries of nested spaces are called by their path with
dots, `observation.images.top`. The model's names have no dots: `observation_images_top`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .errors import EnvDataError, EnvSettingsError
from .wrappers import pick_sizes, resize

CHANNELS = (1, 2, 3, 4)
SMALLEST = 8  # no picture is smaller in both directions, as with env.size
# A grid of numbers with channels, as large as this, is never flattened unasked.
MIN_PICTURE_SIDE = 16


@dataclass(frozen=True)
class Entry:
    """A leaf of an observation space."""

    path: tuple[str | int, ...]
    space: spaces.Space

    @property
    def label(self) -> str:
        """The name by which `env.image_keys` and `env.vector_keys` call it."""
        return ".".join(map(str, self.path))

    @property
    def name(self) -> str:
        """The model's name of it."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.label)
        return name if name[:1].isalpha() else f"obs_{name}"

    def read(self, observation: Any) -> Any:
        for key in self.path:
            observation = observation[key]
        return observation


@dataclass(frozen=True)
class Choice:
    """The entries that are taken, and why others are left out, by label."""

    pictures: list[Entry]
    vectors: list[Entry]
    rendered: bool  # whether the picture is the result of render()
    left_out: dict[str, str]


def list_entries(space: spaces.Space, path: tuple[str | int, ...] = ()) -> list[Entry]:
    """List the leaves of a space, in its own order."""
    if isinstance(space, spaces.Dict):
        return [e for key, part in space.items() for e in list_entries(part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [e for i, part in enumerate(space) for e in list_entries(part, (*path, i))]
    return [Entry(path, space)]


def find_layout(space: spaces.Space) -> str:
    """Return the axes of a picture, HW, HWC or CHW; an empty string if it cannot be one."""
    shape = space.shape if isinstance(space, spaces.Box) else ()
    if len(shape) == 2:
        return "HW"
    if len(shape) != 3:
        return ""
    return "HWC" if shape[2] in CHANNELS else "CHW" if shape[0] in CHANNELS else ""


def find_scale(space: spaces.Space) -> float:
    """Return the factor that brings a picture's values to 0 to 255; 0 if it is not known."""
    if not isinstance(space, spaces.Box):
        return 0.0
    if space.dtype == np.uint8:
        return 1.0
    if not np.issubdtype(space.dtype, np.floating) or (space.low < 0).any():
        return 0.0
    highest = space.high.max()
    return 255.0 if highest <= 1 else 1.0 if highest <= 255 else 0.0


def describe_shape(space: spaces.Space) -> str:
    return "x".join(map(str, space.shape or ()))


def classify(space: spaces.Space) -> tuple[str, str]:
    """Return picture or vector, or an empty string and why the entry is neither."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return "vector", ""
    if not isinstance(space, spaces.Box):
        is_text = isinstance(space, spaces.Text) or np.dtype(space.dtype or object).kind == "U"
        return "", "text" if is_text else f"a {type(space).__name__}"
    layout, sides = find_layout(space), _read_sides(space)
    if space.dtype == np.uint8 and len(space.shape) > 1:
        if not layout:
            return "", f"{describe_shape(space)}: pictures have 1 to 4 channels"
        return ("picture" if max(sides) >= SMALLEST else "vector"), ""
    if len(layout) == 3 and min(sides) >= MIN_PICTURE_SIDE:
        if find_scale(space):
            return "picture", ""
        return "", "maybe a picture, but not of values in 0 to 1; env.vector_keys can name it"
    return "vector", ""


def _read_sides(space: spaces.Space) -> tuple[int, int]:
    layout = find_layout(space)
    if not layout:
        return 0, 0
    assert space.shape is not None
    return space.shape[layout.index("H")], space.shape[layout.index("W")]


def choose_observations(
    space: spaces.Space,
    name: str,
    obs: str,
    image_keys: Sequence[str] | None = None,
    vector_keys: Sequence[str] | None = None,
) -> Choice:
    """Choose the entries of `space` that are observed, or raise EnvSettingsError."""
    entries = list_entries(space)
    left_out: dict[str, str] = {}
    pictures = _pick_named(entries, image_keys, "image_keys", name)
    vectors = _pick_named(entries, vector_keys, "vector_keys", name)
    for entry in pictures or []:
        _check_picture(entry, name)
    for entry in vectors or []:
        _check_vector(entry, name)
    found_pictures, found_vectors = list(pictures or []), list(vectors or [])
    for entry in entries:
        if entry in found_pictures or entry in found_vectors:
            continue
        kind, why = classify(entry.space)
        if kind == "picture" and pictures is None:
            found_pictures.append(entry)
        elif kind == "vector" and vectors is None:
            found_vectors.append(entry)
        else:
            left_out[entry.label] = (
                why or f"not in env.{'image' if kind == 'picture' else 'vector'}_keys"
            )
    rendered = obs != "state" and not found_pictures
    if obs == "pixels":
        left_out |= {
            entry.label: "env.obs is pixels; --env.obs both takes it"
            for entry in found_vectors
            if entry.path
        }
        found_vectors = []
    elif not found_vectors:
        raise EnvSettingsError(_explain_no_vector(name, obs, entries, found_pictures))
    if obs == "state":
        left_out |= {entry.label: "env.obs is state" for entry in found_pictures}
        found_pictures = []
    _check_names([*found_pictures, *found_vectors], name)
    return Choice(found_pictures, found_vectors, rendered, left_out)


def _check_names(entries: list[Entry], name: str) -> None:
    """Raise EnvSettingsError if the model has one name for two of these entries."""
    labels: dict[str, str] = {}
    for entry in entries:
        other = labels.setdefault(entry.name, entry.label)
        if other != entry.label:
            raise EnvSettingsError(
                f"{name} observes {other!r} and {entry.label!r}, and the model calls both "
                f"{entry.name!r}: leave one out by env.image_keys or env.vector_keys"
            )


def _explain_no_vector(name: str, obs: str, entries: list[Entry], pictures: list[Entry]) -> str:
    if pictures and pictures[0].path:
        return f"{name} observes pictures and no vector: use obs=pixels, not {obs}"
    if pictures:
        return f"{name} observes an image and has no vector: use obs=pixels, not {obs}"
    parts = ", ".join(str(entry.space) for entry in entries)
    return f"{name}: observations cannot be flattened into a vector: {parts:.120}"


def _pick_named(
    entries: list[Entry], keys: Sequence[str] | None, setting: str, name: str
) -> list[Entry] | None:
    """Return the entries of these labels; None if none are named."""
    if keys is None:
        return None
    table = {label: entry for entry in entries for label in (entry.name, entry.label)}
    unknown = [key for key in keys if key not in table]
    if unknown:
        raise EnvSettingsError(
            f"env.{setting}: {name} observes no {unknown[0]!r}, only "
            f"{', '.join(entry.label or 'one array without a name' for entry in entries)}"
        )
    return [entry for entry in entries if any(table[key] is entry for key in keys)]


def _check_picture(entry: Entry, name: str) -> None:
    if not find_layout(entry.space) or not find_scale(entry.space):
        raise EnvSettingsError(
            f"env.image_keys: {entry.label!r} of {name} is no picture of uint8 or of values in "
            f"0 to 1: {entry.space}"
        )


def _check_vector(entry: Entry, name: str) -> None:
    kind, why = classify(entry.space)
    if kind == "picture" and min(_read_sides(entry.space)) >= 2 * MIN_PICTURE_SIDE:
        raise EnvSettingsError(
            f"env.vector_keys: {entry.label!r} of {name} is a picture of "
            f"{describe_shape(entry.space)}, and a picture is never flattened"
        )
    if not isinstance(entry.space, spaces.Box) and not kind:
        raise EnvSettingsError(f"env.vector_keys: {entry.label!r} of {name} is no vector: {why}")


def to_picture(value: Any, space: spaces.Box) -> np.ndarray:
    """Convert an entry to a picture (H,W) or (H,W,C) uint8; EnvDataError for wrong data."""
    picture = np.asarray(value)
    if picture.shape != space.shape:
        raise EnvDataError(f"observation has shape {picture.shape}, expected {space.shape}")
    if picture.dtype != space.dtype:
        raise EnvDataError(f"observation has dtype {picture.dtype}, expected {space.dtype}")
    if picture.dtype != np.uint8:
        if not np.isfinite(picture).all():
            raise EnvDataError("observation is not finite")
        picture = np.rint(picture * find_scale(space)).clip(0, 255).astype(np.uint8)
    return picture.transpose(1, 2, 0) if find_layout(space) == "CHW" else picture


class ObservationSelector(gymnasium.ObservationWrapper):
    """Show the chosen entries: pictures of their size by name, and vectors.

    Vectors keep their names beside pictures of the observation; otherwise they are laid end to
    end in `vector`. A single `image` or `vector` is no Dict.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        name: str,
        choice: Choice,
        size: tuple[int, int],
        sizes: Mapping[str, tuple[int, int]] | None,
    ):
        super().__init__(env)
        self.choice, self.size = choice, size
        self.pictures = {entry.name if entry.path else "image": entry for entry in choice.pictures}
        named = [key for key, entry in self.pictures.items() if entry.path]
        self.sizes = pick_sizes(name, named, size, sizes) or {key: size for key in self.pictures}
        self.channels = {key: _count_channels(entry.space) for key, entry in self.pictures.items()}
        if len(self.pictures) == 1 and self.channels.get("image") == 1:
            self.channels["image"] = 3  # a single grey picture has always become RGB
        observes_pictures = any(classify(e.space)[0] == "picture" for e in self._list_all())
        self.joined = not (observes_pictures or choice.pictures)
        parts: dict[str, spaces.Space] = {
            key: spaces.Box(0, 255, (*self.sizes[key], self.channels[key]), np.uint8)
            for key in self.pictures
        }
        if choice.rendered:
            parts["image"] = spaces.Box(0, 255, (*size, 3), np.uint8)
        lengths = [spaces.flatdim(entry.space) for entry in choice.vectors]
        if self.joined and choice.vectors:
            parts["vector"] = spaces.Box(-np.inf, np.inf, (sum(lengths),), np.float32)
        elif choice.vectors:
            for entry, length in zip(choice.vectors, lengths, strict=True):
                parts[entry.name] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.only = next(iter(parts)) if list(parts) in (["image"], ["vector"]) else ""
        self.observation_space = parts[self.only] if self.only else spaces.Dict(parts)

    def _list_all(self) -> list[Entry]:
        return list_entries(self.env.observation_space)

    def observation(self, observation: Any) -> Any:
        found: dict[str, np.ndarray] = {}
        if self.choice.rendered:
            found["image"] = resize(np.asarray(self.env.render(), np.uint8), self.size)
        for key, entry in self.pictures.items():
            assert isinstance(entry.space, spaces.Box)
            picture = to_picture(entry.read(observation), entry.space)
            found[key] = resize(picture, self.sizes[key], self.channels[key])
        vectors = [self._flatten(entry, observation) for entry in self.choice.vectors]
        if self.joined and vectors:
            found["vector"] = np.concatenate(vectors)
        else:
            found |= {e.name: v for e, v in zip(self.choice.vectors, vectors, strict=True)}
        return found[self.only] if self.only else found

    def _flatten(self, entry: Entry, observation: Any) -> np.ndarray:
        value = entry.read(observation)
        return np.asarray(spaces.flatten(entry.space, value), np.float32)

    def describe(self) -> str:
        """Say in one line what is observed, from which entries, and what is left out."""
        found = []
        if self.choice.rendered:
            found.append(f"image {self.size[0]}x{self.size[1]}x3 (rendered)")
        for key, entry in self.pictures.items():
            shown = "x".join(map(str, (*self.sizes[key], self.channels[key])))
            found.append(f"{key} {shown} (of {describe_shape(entry.space)})")
        parts = [
            f"{entry.label or 'its array'} {spaces.flatdim(entry.space)}"
            for entry in self.choice.vectors
        ]
        if parts:
            found.append(f"vector ({', '.join(parts)})" if self.joined else ", ".join(parts))
        left = [f"{label or 'the rest'} ({why})" for label, why in self.choice.left_out.items()]
        return ", ".join(found) + (f"; leaves out {', '.join(left)}" if left else "")


def _count_channels(space: spaces.Space) -> int:
    layout = find_layout(space)
    assert space.shape is not None
    return space.shape[layout.index("C")] if "C" in layout else 1
