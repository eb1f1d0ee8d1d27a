"""Commands of the core: ``deeptn draw``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any

from ..analysis import draw, summary
from ..base import write_atomically
from ..errors import LayoutError, SpecError, near_match
from ..network import network
from ..topologies import topology, topology_names
from .commands import Command

#: File formats by suffix.
FORMATS = ("svg", "png", "pdf")


def _parse(text: str) -> Any:
    """A value of a field: a number, numbers between commas, true, false, none, or a word."""
    known = {"none": None, "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return tuple(int(part) for part in text.split(",")) if "," in text else int(text)
    except ValueError:
        return text


def shape_of(text: str) -> tuple[int, ...]:
    """A shape from the command line: ``120,400`` or ``120x400``."""
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise LayoutError(f"--shape {text!r}; write the sizes between commas, for example --shape 120,400") from None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topology", help=f"one of {', '.join(topology_names())}")
    parser.add_argument("--shape", default="16,16", help="shape of the weight, for example 120,400 (default 16,16)")
    parser.add_argument("-o", "--out", type=Path, help=f"file to write: .{', .'.join(FORMATS)} (default TOPOLOGY.svg)")
    group = parser.add_argument_group("fields of the topologies")
    owners: dict[str, list[str]] = {}
    for name in topology_names():
        for field in fields(topology(name)):
            if not isinstance(field.default, (int, str, NoneType)):  # what no word of the command line can be
                continue
            owners.setdefault(field.name, []).append(name)
    for field, names in owners.items():
        group.add_argument(
            f"--{field.replace('_', '-')}", dest=f"field_{field}", metavar="VALUE", help=", ".join(names)
        )


def _run(options: argparse.Namespace) -> int:
    family = topology(options.topology)
    given = {
        key[6:]: _parse(value) for key, value in vars(options).items() if key[:6] == "field_" and value is not None
    }
    known = [field.name for field in fields(family)]
    for name in given:
        if name not in known:
            raise SpecError(f"{type(family).__name__} has no field {name!r}; {near_match(name, known)}")
    net = network(type(family)(**given), shape_of(options.shape))
    out = options.out or Path(f"{type(family).__name__.lower()}.svg")
    kind = out.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise SpecError(f"--out {str(out)!r}; write a file name that ends in .{', .'.join(FORMATS)}")
    figure = draw(net)
    write_atomically(out, lambda new: figure.savefig(new, format=kind, dpi=150))
    print(summary(net))
    print(f"wrote {out}")
    return 0


DRAW = Command("draw a network of a topology to a file", _configure, _run)
