"""``deeptn draw``: draw a network of a topology to a file."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any

from ..analysis import draw, summary
from ..base import write_atomically
from ..errors import LayoutError, SpecError
from ..network import network
from ..topologies import Topology, topology, topology_names
from .commands import Command

#: File formats, as file name suffixes.
FORMATS = ("svg", "png", "pdf")


def _parse(text: str) -> Any:
    """Parse the value of a field: a number, numbers separated by commas, true, false, none, or a word."""
    known = {"none": None, "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return tuple(int(part) for part in text.split(",")) if "," in text else int(text)
    except ValueError:
        return text


def shape_of(text: str) -> tuple[int, ...]:
    """Parse a shape from the command line: ``120,400`` or ``120x400``."""
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise LayoutError(f"--shape {text!r}; separate the sizes with commas, for example --shape 120,400") from None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "deeptn draw TOPOLOGY [--shape SHAPE] [-o OUT] [fields of the topology]"
    parser.epilog = "deeptn draw TOPOLOGY --help lists the fields of a topology."
    parser.add_argument("topology", metavar="TOPOLOGY", help=f"one of {', '.join(topology_names())}")
    _add_common(parser)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_common(parser: argparse.ArgumentParser, shape: str = "16,16", out: Path | None = None) -> None:
    parser.add_argument("--shape", default=shape, help=f"shape of the weight, for example 120,400 (default {shape})")
    where = f"file to write: .{', .'.join(FORMATS)} (default TOPOLOGY.svg)"
    parser.add_argument("-o", "--out", type=Path, default=out, help=where)


def _parser_of(family: Topology, options: argparse.Namespace) -> argparse.ArgumentParser:
    """Return a parser for the fields of one family. What precedes the topology sets the defaults."""
    name = type(family).__name__
    parser = argparse.ArgumentParser(f"deeptn draw {name}", description=(type(family).__doc__ or "").partition("\n")[0])
    _add_common(parser, options.shape, options.out)
    group = parser.add_argument_group(f"fields of {name}")
    described = _descriptions(type(family))
    for field in fields(family):
        if isinstance(field.default, (int, str, NoneType)):  # others cannot be written on the command line
            help_text = f"{described.get(field.name, '')} (default {str(field.default).lower()})".replace("%", "%%")
            flag, dest = f"--{field.name.replace('_', '-')}", f"field_{field.name}"
            group.add_argument(flag, dest=dest, metavar="VALUE", help=help_text.strip())
    return parser


def _descriptions(family: type[Topology]) -> dict[str, str]:
    """Return what the docstring of a family says about each of its fields."""
    section = cleandoc(family.__doc__ or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\S[^:\n]*?)(?: :.*)?\n((?:    .*\n?)+)", section, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()).replace("``", "").replace("`", ""))
    return found


def _run(options: argparse.Namespace) -> int:
    family = topology(options.topology)
    options = _parser_of(family, options).parse_args(options.rest)
    given = {
        key[6:]: _parse(value) for key, value in vars(options).items() if key[:6] == "field_" and value is not None
    }
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


DRAW = Command("draw a network of a topology and write it to a file", _configure, _run)
