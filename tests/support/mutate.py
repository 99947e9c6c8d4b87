"""Damage of every kind, by a seed: to bytes, to what JSON holds, to text."""

import copy
import json

NASTY = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**53,
    2**63,
    10**40,
    0.5,
    -1e308,
    "",
    "x" * 999,
    "../../outside",
    "/outside",
    "0" * 50,
    "\0",
    "é",
    [],
    {},
    [[]],
    {"a": 1},
    [0] * 99,
    [None],
    ["x"],
    "NaN",
    "1e999",
]
NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
]


def in_bytes(rng, data):
    """One to three blows to a string of bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 2, 8, 64])
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                data[at:at] = data[at : at + size] * rng.randint(1, 9)
            case 4:
                del data[at:]
            case 5:
                width = rng.choice([1, 4, 8])
                data[at : at + width] = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(
                    width, "little"
                )
    return bytes(data)


def places(value, path=()):
    """Every place in nested tables and lists."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield from places(item, (*path, key))


def in_json(rng, value, nasty=NASTY):
    """One to three entries replaced, dropped, doubled, moved or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        found = [path for path in places(value) if path]
        if not found:
            return value
        *above, key = rng.choice(found)
        node = value
        for step in above:
            node = node[step]
        other = rng.choice(found)
        match rng.randrange(5):
            case 0 | 1:
                node[key] = copy.deepcopy(rng.choice(nasty))
            case 2:
                del node[key]
            case 3 if isinstance(node, list):
                node.insert(key, copy.deepcopy(node[key]))
            case 3:
                node[str(rng.choice(["other", "", "../x", key]))] = node[key]
            case 4:
                taken = value
                for step in other:
                    taken = taken[step]
                node[key] = copy.deepcopy(taken)
    return value


def in_yaml(rng, text):
    """Damage as a hand, a merge or an attacker does it."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines[at] = in_bytes(rng, lines[at].encode()).decode("utf-8", "replace")
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                lines[at] = " " * rng.randrange(5) + lines[at].lstrip()
            case 3:
                key = lines[at].partition(":")[0]
                lines[at] = f"{key}: {rng.choice(YAML_VALUES)}"
            case 4:
                del lines[at]
        if not lines:
            break
    return "\n".join(lines)


BOMB = "&a [x,x,x,x,x,x,x,x,x]"  # nine lines that stand for 9^10 words
for letter, before in zip("bcdefghij", "abcdefghi", strict=True):
    BOMB += f", &{letter} [" + ",".join([f"*{before}"] * 9) + "]"
YAML_VALUES = [
    *map(json.dumps, NASTY),
    f"[{BOMB}]",
    "[" * 3000,
    "&a [*a]",
    "!!binary x",
    "1:99:99",
    "!!set {a}",
    "!!python/object/apply:os.system [id]",
    "2001-99-99",
    "!!timestamp 1",
    "0x" + "f" * 6000,
    "9" * 6000,
    "!!omap [a: 1]",
    "<<: *a",
    "? [a]",
    "|\n  x",
    "!<tag:yaml.org,2002:float> x",
    ".nan",
    "-.inf",
    "0o9",
    "@",
    "%",
    "`",
]
