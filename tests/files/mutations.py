"""Mutations of files that know their structure, each from a seed: of JSON trees, safetensors files and texts."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from xxhash import xxh3_64_intdigest

NUMBERS = [0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**61 - 1, 2**63, 10**30, 10**400, 1e999, -1e999, float("nan"), 0.5, -0.0]
WORDS = ["", "a", "__class__", "../x", "\x00", "relu", "L1_g0", "core0", "rows", "LowRank", "BrickWall", "x" * 5000]
DTYPES = ["float16", "float64", "bfloat16", "int8", "complex64", "F8_E4M3", "F8_E8M0", "F64", "F16", "BOOL"]
TREES: list[Any] = [[], [[]], [0], [1, 1], ["a"], {}, {"a": 1}, [None], [2] * 50, [1] * 3000, [10**9] * 3]
HOSTILE: list[Any] = [None, True, False, *NUMBERS, *WORDS, *DTYPES, *TREES]
KEYS = ["a", "isometric", "layers", "terms", "dtypes", "rounded", "bond", "sources", "add", "constant", "param", "rank"]

#: Levels of lists around a value.
DEPTHS = 1, 50, 3000


def paths(tree: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to every part of a tree."""
    yield here
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths(value, (*here, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return a part of a tree."""
    for key in path:
        tree = tree[key]
    return tree


def mutated(tree: Any, dice: random.Random) -> Any:
    """Return a tree with one to three changes."""
    holder = [copy.deepcopy(tree)]
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        if not isinstance(holder[0], (dict, list)) or _change(holder, dice) == "deep":
            break
    return holder[0]


def _change(holder: list[Any], dice: random.Random) -> str:
    """Change something in place; return what kind of change it was."""
    places = [(0, *path) for path in paths(holder[0])]
    path = dice.choice(places)
    box, key, value = at(holder, path[:-1]), path[-1], at(holder, path)
    kind = dice.choice(["hostile", "hostile", "hostile", "swap", "drop", "add", "repeat", "number", "deep"])
    if kind == "swap":
        box[key] = copy.deepcopy(at(holder, dice.choice(places)))
    elif kind == "drop" and len(path) > 1:
        del box[key]
    elif kind == "add" and isinstance(value, dict):
        value[dice.choice(KEYS)] = copy.deepcopy(dice.choice(HOSTILE))
    elif kind == "repeat" and isinstance(value, list) and value:
        value += [copy.deepcopy(dice.choice(value))] * dice.choice([1, 1000])
    elif kind == "number" and isinstance(value, (int, float)) and abs(value) < 2**70:
        box[key] = dice.choice([value + 1, value - 1, value * 2, -value, value * 10**6, float(value), str(value)])
    elif kind == "deep":
        for _ in range(dice.choice(DEPTHS)):
            value = [value]
        box[key] = value
    else:
        box[key] = copy.deepcopy(dice.choice(HOSTILE))
    return kind


def dumps(tree: Any) -> str:
    """Return JSON, of deep trees too."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(40_000)
    try:
        return json.dumps(tree)
    finally:
        sys.setrecursionlimit(limit)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Return data that is cut off, or with a few other bytes."""
    if dice.random() < 0.5:
        return data[: dice.randrange(len(data))]
    found = bytearray(data)
    for _ in range(dice.choice([1, 4, 30])):
        found[dice.randrange(len(found))] = dice.randrange(256)
    return bytes(found)


def safetensors(data: bytes, dice: random.Random) -> bytes:
    """Return a safetensors file with changes in its bytes, the table of tensors, or the header of deeptn."""
    kind = dice.choice(["bytes", "table", *["header"] * 4])
    if kind == "bytes":
        return damaged(data, dice)
    length = int.from_bytes(data[:8], "little")
    table, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = table.pop("__metadata__")
    if kind == "table":
        table = mutated(table, dice)
    else:
        metadata["deeptn"] = dumps(mutated(_inflated(json.loads(metadata["deeptn"])), dice))
    if dice.random() < 0.5 and kind == "header":  # or the checksums alone would refuse the file
        metadata["deeptn"] = re.sub(
            '"checksums": ?"[0-9a-f]*"', f'"checksums":"{_sums(table, body)}"', metadata["deeptn"]
        )
    if isinstance(table, dict):
        table["__metadata__"] = metadata
    text = dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _sums(table: dict[str, Any], body: bytes) -> str:
    """Return the checksums of the tensors of a file."""
    bits = {name: int(re.sub(r"\D", "", entry["dtype"]) or 8) for name, entry in table.items()}
    order = sorted(table, key=lambda name: (-bits[name], name))
    return "".join(f"{xxh3_64_intdigest(body[slice(*table[name]['data_offsets'])]) & 0xFFFFFFFF:08x}" for name in order)


def _inflated(tree: Any) -> Any:
    """Return a tree with all descriptions inflated, so that changes reach them."""
    if isinstance(tree, dict):
        if tree.keys() == {"deflate"}:
            return json.loads(zlib.decompress(base64.b64decode(tree["deflate"])))
        return {key: _inflated(value) for key, value in tree.items()}
    return [_inflated(value) for value in tree] if isinstance(tree, list) else tree
