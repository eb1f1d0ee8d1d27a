"""Writes ``gallery.md`` and its drawings from the registry of topologies; Sphinx calls it before it reads the pages."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import deeptn as dtn
from deeptn.topologies import topology

HEAD = """# Gallery

Every topology that is registered: what it computes, how many parameters it has, and one network of it drawn by
{func}`~deeptn.draw`. Stages stand from left to right with their activations as bars; legs are coloured by the axis of
the weight. A square has inputs, a circle has none, a white circle is constant, a dot is an index that several nodes
share.

In the formulas $Q$ is the number of legs, `d` their size, `bond(k)` the largest bond between k legs and the others: the
least of `rank`, `d**k` and `d**(Q-k)`; `wire(k)` is the same, but `d` for a single leg. The tests compare every formula
with the networks.
"""

#: Networks that show more than the default of their family does.
SHOWN = {
    "Graph": dtn.network(
        dtn.Graph(
            nodes=[{"S": "pq"}, {"U": "pax", "V": "xbq", "W": "xc"}],
            output=["pq", "abc"],
            sizes={"a": 4, "b": 5, "c": 6},
        ),
        (20, 6),
    ),
}


def write(folder: Path) -> None:
    """Write the page and one SVG per family."""
    drawings = folder / "gallery"
    drawings.mkdir(exist_ok=True)
    page = [HEAD]
    for name in sorted(dtn.topologies.topology_names()):
        cls = type(topology(name))
        if cls.__module__.partition(".")[0] != "deeptn":
            continue
        net = SHOWN.get(name) or example(cls)
        dtn.draw(net).savefig(drawings / f"{name}.svg")
        page.append(entry(cls, net))
    (folder / "gallery.md").write_text("\n".join(page))


def example(cls: type[dtn.Topology]) -> dtn.Network:
    """The default of a family on a small weight; on a larger one where that has few legs and the larger one more."""
    small, large = (dtn.network(cls(), shape) for shape in ((16, 16), (64, 512)))
    return large if len(small.layout.legs) <= 3 < len(large.layout.legs) else small


def entry(cls: type[dtn.Topology], net: dtn.Network) -> str:
    """What the page says of one family: all of it from the class and its docstring."""
    text = inspect.getdoc(cls) or ""
    summary = text.split("\n\n")[0]
    sketch = re.search(r"::\n\n((?:(?: {4}.*)?\n)+)", text.partition("Parameters\n---")[0] + "\n")
    notes = re.search(r"Notes\n-----\n(.*?)(?=\n\nSource|\n\nExamples|\Z)", text, re.S)
    source = re.search(r"Source: (.*?)(?=\n\n|\Z)", text, re.S)
    options = ", ".join(
        f"`{f.name}={getattr(cls(), f.name)!r}`" for f in fields(cls) if len(repr(getattr(cls(), f.name))) < 40
    )
    parts = [f"## {cls.__name__}", f"{{class}}`~deeptn.{cls.__name__}`. {summary}"]
    if cls.equation:
        parts.append(f"$$\n{cls.equation}\n$$")
    if sketch:
        parts.append("```text\n" + inspect.cleandoc("\n" + sketch.group(1)).rstrip() + "\n```")
    if cls.formula:
        formula, _, condition = cls.formula.partition("  # ")
        parts.append(f"**Parameters:** `{formula}`" + (f" ({condition})" if condition else ""))
    if notes:
        parts.append(" ".join(notes.group(1).split()).replace("``", "`"))
    if options:
        parts.append(f"**Fields:** {options}; `at_budget` turns `{cls.size_field}`.")
    parts.append(f"![{cls.__name__}](gallery/{cls.__name__}.svg)")
    parts.append(f"*{net!r}*".replace("_", r"\_"))
    if source:
        parts.append(f"**Source:** {' '.join(source.group(1).split())}")
    return "\n\n".join(parts) + "\n"
