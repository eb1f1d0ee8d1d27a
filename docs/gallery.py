"""Write ``gallery.md`` and its drawings from the registry of topologies; Sphinx calls this before reading the pages."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import deeptn as dtn
from deeptn.topologies import topology

HEAD = """# Gallery

Every registered topology with its equation, its number of parameters, and one network of it drawn by
{func}`~deeptn.draw`. In the drawings, stages run from left to right, with their activations as bars. The color of a
leg shows its axis of the weight. Squares are nodes with inputs, circles are nodes without, and white circles are
constant. A dot is an index that more than two nodes share.

In the formulas, $Q$ is the number of legs and `d` their size. `bond(k)` is the largest useful bond between k legs and
the others: the minimum of `rank`, `d**k` and `d**(Q-k)`. `wire(k)` is the same, except that it is `d` for a single leg.
The tests check every formula against the networks.
"""

#: Networks that show more than their family's default.
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
        dtn.draw(net).savefig(drawings / f"{name}.svg", transparent=True)
        page.append(entry(cls, net))
    (folder / "gallery.md").write_text("\n".join(page))


def example(cls: type[dtn.Topology]) -> dtn.Network:
    """Return a family's default network on a small weight, or on a larger one if only that has more than three legs."""
    small, large = (dtn.network(cls(), shape) for shape in ((16, 16), (64, 512)))
    return large if len(small.layout.legs) <= 3 < len(large.layout.legs) else small


def entry(cls: type[dtn.Topology], net: dtn.Network) -> str:
    """Return the section on one family, made entirely from the class and its docstring."""
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
        parts.append(f"**Fields:** {options}; `at_budget` varies `{cls.size_field}`.")
    parts.append(f"![{cls.__name__}](gallery/{cls.__name__}.svg)")
    parts.append(f"*{net!r}*".replace("_", r"\_"))
    if source:
        parts.append(f"**Source:** {' '.join(source.group(1).split())}")
    return "\n\n".join(parts) + "\n"
