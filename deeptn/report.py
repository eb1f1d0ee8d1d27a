"""What a compression did, layer by layer."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ._files import write_atomically


@dataclass(frozen=True)
class LayerReport:
    """One compressed layer.

    Attributes
    ----------
    name : str
        Of the layer in the model.
    shape : tuple of int
        Of its weight.
    topology : str
        The network that generates it.
    params_before, params_after : int
        Entries of the weight; trainable entries of the network. The bias is in neither.
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius) between the old weight and the generated one.
    flops, write, peak : int
        Cost of decoding the weight once (see `deeptn.Cost`).
    """

    name: str
    shape: tuple[int, ...]
    topology: str
    params_before: int
    params_after: int
    error: float
    flops: int
    write: int
    peak: int

    @property
    def ratio(self) -> float:
        """`params_before` / `params_after`."""
        return self.params_before / self.params_after


@dataclass(frozen=True)
class Report:
    """A table of `LayerReport`, with the totals of the model.

    Attributes
    ----------
    layers : tuple of LayerReport
    model_before, model_after : int
        All parameters of the model.
    """

    layers: tuple[LayerReport, ...]
    model_before: int
    model_after: int

    @property
    def params_before(self) -> int:
        """Weights of the compressed layers before."""
        return sum(layer.params_before for layer in self.layers)

    @property
    def params_after(self) -> int:
        """Parameters of their networks."""
        return sum(layer.params_after for layer in self.layers)

    @property
    def ratio(self) -> float:
        """`params_before` / `params_after`: of the compressed layers alone."""
        return self.params_before / self.params_after

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "layers": [asdict(layer) | {"ratio": layer.ratio} for layer in self.layers],
            "params_before": self.params_before,
            "params_after": self.params_after,
            "ratio": self.ratio,
            "model_before": self.model_before,
            "model_after": self.model_after,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a file."""
        write_atomically(path, lambda file: Path(file).write_text(json.dumps(self.to_dict(), indent=1) + "\n"))

    def __str__(self) -> str:
        lines = [
            f"{x.name}: {x.shape} {x.topology}, {x.params_before:,} -> {x.params_after:,} (x{x.ratio:.1f}), "
            f"error of W {x.error:.3f}"
            for x in self.layers
        ]
        total = f"{self.params_before:,} -> {self.params_after:,} (x{self.ratio:.1f})"
        model = f"model {self.model_before:,} -> {self.model_after:,}"
        return "\n".join([*lines, f"compressed layers {total}, {model}"])

    def __rich__(self) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        columns = ("layer", "shape", "topology", "before", "after", "ratio", "error", "flops")
        table = Table(
            *columns,
            title="Compression",
            box=SIMPLE_HEAD,
            caption=f"error of W, flops to decode it; model {self.model_before:,} -> {self.model_after:,}",
        )
        for x in self.layers:
            cells = (x.name, "x".join(map(str, x.shape)), x.topology, f"{x.params_before:,}", f"{x.params_after:,}")
            table.add_row(*cells, f"{x.ratio:.1f}", f"{x.error:.3f}", f"{x.flops:,}")
        table.add_section()
        table.add_row("sum", "", "", f"{self.params_before:,}", f"{self.params_after:,}", f"{self.ratio:.1f}", "", "")
        return table
