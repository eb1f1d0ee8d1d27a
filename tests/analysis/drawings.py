"""Describe drawings in numbers. ``python -m tests.analysis.drawings`` writes those of all test networks to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import deeptn as dtn

from ..market import NETWORKS

FILE = Path(__file__).parents[1] / "data" / "drawings.json"


def description(net: dtn.Network) -> dict[str, Any]:
    """Return where a drawing has its nodes, its texts and its lines."""
    axes = dtn.draw(net).axes[0]
    rounded = lambda points: np.round(np.asarray(points, dtype=float), 2).tolist()
    return {
        "points": [rounded(points.get_offsets()) for points in axes.collections],
        "texts": {text.get_text(): rounded(text.get_position()) for text in axes.texts if text.get_text()},
        "lines": sorted(rounded([line.get_xdata(), line.get_ydata()]) for line in axes.lines),
        "frame": rounded([axes.get_xlim(), axes.get_ylim()]),
    }


if __name__ == "__main__":
    found = {name: description(net) for name, net in NETWORKS.items()}
    FILE.write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")
