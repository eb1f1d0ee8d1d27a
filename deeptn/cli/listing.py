"""``deeptn list``: list the topologies, with formulas for their parameters and the smallest network of each."""

from __future__ import annotations

import argparse
from dataclasses import fields

from ..base import text_table
from ..errors import DeepTNError
from ..network import network
from ..topologies import Topology, topology, topology_names
from .commands import Command
from .draw import shape_of


def _smallest(family: Topology, shape: tuple[int, ...]) -> str:
    """Return the number of parameters of the smallest network for a weight, or why there is none."""
    try:
        return f"{network(family.resized(1), shape).num_params:,}"
    except DeepTNError as error:
        return str(error)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="120,400", help="shape of the weight, for example 16,16 (default 120,400)")


def _run(options: argparse.Namespace) -> int:
    shape = shape_of(options.shape)
    head = ("topology", f"smallest for {' × '.join(map(str, shape))}", "fields", "parameters for Q legs of size d")
    rows: list[tuple[str, ...]] = [head]
    for name in topology_names():
        family = topology(name)
        rows.append((name, _smallest(family, shape), ", ".join(f.name for f in fields(family)), family.formula or "–"))
    print(text_table(rows))
    return 0


LIST = Command("list the topologies", _configure, _run)
