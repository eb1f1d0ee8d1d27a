"""Draw the picture in the README and on the landing page: python docs/picture.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

import deeptn as dtn

FOLDER = Path(__file__).parent / "pictures"
NET = dtn.network(dtn.BrickWall(layers=2), (120, 400))
#: The colors of `dtn.draw`, and their replacements on a dark background.
DARK = {"#333333": "#e0e0e0", "#444444": "#cccccc", "#555555": "#aaaaaa", "#000000": "#cccccc"}


def figure() -> Figure:
    """Draw the network on the left and its weight on the right."""
    mpl.rcParams["svg.hashsalt"] = "deeptn"  # the same file on every run
    mpl.rcParams["svg.fonttype"] = "none"
    fig = Figure(figsize=(8.6, 4.2), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
    dtn.draw(NET, left)
    left.set_title("", loc="left")
    left.set_title(f"{NET.num_params} parameters in {len(NET.spec.param_shapes)} cores", fontsize=11, color="#333333")
    weight = NET.materialize(NET.init(seed=0))
    right.imshow(weight, cmap=mpl.colormaps["RdBu"].resampled(9), vmin=-0.2, vmax=0.2, interpolation="nearest")
    right.set_title(f"a weight of {NET.size:,} entries, 120 × 400", fontsize=11, color="#333333")
    right.set_xticks([])
    right.set_yticks([])
    right.spines[:].set_visible(False)
    right.annotate(
        "",
        (-0.02, 0.5),
        (-0.14, 0.5),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "#333333", "lw": 1.6},
    )
    return fig


def main() -> None:
    """Write both files."""
    light, dark = FOLDER / "wall-light.svg", FOLDER / "wall-dark.svg"
    FOLDER.mkdir(exist_ok=True)
    figure().savefig(light, transparent=True, metadata={"Date": None})
    text = light.read_text()
    for ink, other in DARK.items():
        text = text.replace(ink, other)
    dark.write_text(text)


if __name__ == "__main__":
    main()
