"""Report the results of a compression, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..arrays import relative_error, to_raw
from ..base import Array, PathLike, Shape, kilobytes, write_atomically
from ..network import Network
from ..topologies import describe
from .calibration import Calibration
from .view import ModelView, at_rest, count


@dataclass(frozen=True)
class LayerReport:
    """Report on one compressed layer.

    Attributes
    ----------
    name : str
        Name of the layer in the model.
    shape : tuple of int
        Shape of its weight.
    topology : str
        Topology of the network that generates the weight.
    params_before, params_after : int
        Entries of the weight; trainable entries of the network. Neither counts the bias.
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius) between the old weight and the generated one.
    flops, write, peak : int
        Cost of decoding the weight once (see `deeptn.engine.Cost`).
    bytes_before, bytes_after : int
        Bytes of the dense weight, and of the cores: memory at rest, and in a file without its header.
    output_error, held_out_error : float, optional
        Relative root mean square error of W x on the inputs x of a `Calibration` and on its held-out inputs; None if
        these are unknown. If the layer has a bias that makes up for it, mean outputs are left out of both sides.
    history : tuple of float
        Errors of the fit, step by step; empty if the cores were read from a folder.
    """

    name: str
    shape: Shape
    topology: str
    params_before: int
    params_after: int
    error: float
    flops: int
    write: int
    peak: int
    bytes_before: int = 0
    bytes_after: int = 0
    output_error: float | None = None
    held_out_error: float | None = None
    history: tuple[float, ...] = ()

    @property
    def bytes_running(self) -> int:
        """Bytes of the cores and the decoded weight, which a layer keeps in evaluation mode."""
        return self.bytes_before + self.bytes_after

    @property
    def ratio(self) -> float:
        """`params_before` / `params_after`."""
        return self.params_before / self.params_after


def layer_report(
    name: str,
    net: Network,
    before: Array,
    after: Array,
    calibration: Calibration | None = None,
    history: Sequence[float] = (),
) -> LayerReport:
    """Compare the weight that a network generates for a layer with the weight before."""
    cost, error, itemsize = net.cost(), relative_error(after, before), to_raw(before).dtype.itemsize
    sizes, counts = (net.size, net.num_params), (cost.flops, cost.write, cost.peak)
    stored = net.size * itemsize, net.num_params * itemsize
    on_outputs = (None, None) if calibration is None else calibration.errors(name, after, before)
    numbers = (*sizes, error, *counts, *stored, *on_outputs)
    return LayerReport(name, net.shape, describe(net.topology), *numbers, history=tuple(history))


@dataclass(frozen=True)
class Report:
    """A table of `LayerReport` rows, with totals for the model.

    Attributes
    ----------
    layers : tuple of LayerReport
    model_before, model_after : int
        All parameters of the model.
    bytes_before, bytes_after : int
        Bytes of all arrays of the model; a file adds a header.
    """

    layers: tuple[LayerReport, ...]
    model_before: int
    model_after: int
    bytes_before: int
    bytes_after: int

    @property
    def params_before(self) -> int:
        """Entries of the dense weights of the compressed layers."""
        return sum(layer.params_before for layer in self.layers)

    @property
    def params_after(self) -> int:
        """Parameters of the networks that replace them."""
        return sum(layer.params_after for layer in self.layers)

    @property
    def ratio(self) -> float:
        """`params_before` / `params_after`, for the compressed layers only."""
        return self.params_before / self.params_after

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        derived = [{"ratio": layer.ratio, "bytes_running": layer.bytes_running} for layer in self.layers]
        return {
            "layers": [asdict(layer) | more for layer, more in zip(self.layers, derived)],
            "params_before": self.params_before,
            "params_after": self.params_after,
            "ratio": self.ratio,
            "model_before": self.model_before,
            "model_after": self.model_after,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }

    def to_json(self, path: PathLike) -> None:
        """Write `to_dict` to a file."""
        write_atomically(path, lambda file: Path(file).write_text(json.dumps(self.to_dict(), indent=1) + "\n"))

    def __str__(self) -> str:
        lines = [
            f"{x.name}: {x.shape} {x.topology}, {x.params_before:,} -> {x.params_after:,} (x{x.ratio:.1f}), "
            f"error of W {x.error:.3f}" + (f", of outputs {_pair(x)}" if x.output_error is not None else "")
            for x in self.layers
        ]
        return "\n".join([*lines, self.total])

    @property
    def total(self) -> str:
        """The sums, in one line."""
        total = f"{self.params_before:,} -> {self.params_after:,} (x{self.ratio:.1f})"
        return f"compressed layers {total}, {self._model()}"

    def _model(self) -> str:
        parameters = f"model {self.model_before:,} -> {self.model_after:,} parameters"
        return f"{parameters}, {kilobytes(self.bytes_before)} -> {kilobytes(self.bytes_after)} at rest"

    def __rich__(self) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        watched = any(x.output_error is not None for x in self.layers)
        columns = ["layer", "shape", "topology", "before", "after", "ratio", "error", "flops"]
        if watched:
            columns.insert(7, "of outputs")
        table = Table(
            *columns,
            title="Compression",
            box=SIMPLE_HEAD,
            caption=f"error of W, {_ON_OUTPUTS if watched else ''}flops to decode it; {self._model()}",
        )
        for x in self.layers:
            cells = Text(x.name), "x".join(map(str, x.shape)), Text(x.topology)  # which may have any name
            counts = f"{x.params_before:,}", f"{x.params_after:,}", f"{x.ratio:.1f}"
            more = [_pair(x)] if watched else []
            table.add_row(*cells, *counts, f"{x.error:.3f}", *more, f"{x.flops:,}")
        table.add_section()
        table.add_row("sum", "", "", f"{self.params_before:,}", f"{self.params_after:,}", f"{self.ratio:.1f}")
        return table


def report_on(before: ModelView, after: ModelView, calibration: Calibration | None = None) -> Report:
    """Compare two models of one architecture, the second with generated weights.

    Parameters
    ----------
    before, after : ModelView
    calibration : Calibration, optional
        Inputs of the weights of the first model.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch import compress
    >>> from deeptn_torch.view import TorchModel
    >>> model = nn.Sequential(nn.Linear(16, 8), nn.ReLU())
    >>> small, report = compress(model, {"0": dtn.LowRank(rank=2)})
    >>> report_on(TorchModel(model), TorchModel(small)).layers[0].error == report.layers[0].error
    True
    """
    dense = {weight.name: weight for weight in before.weights() if weight.network is None}
    layers: list[LayerReport] = []
    for weight in after.weights():
        if weight.network is not None and weight.name in dense:
            pair = dense[weight.name].read(), weight.read()
            layers.append(layer_report(weight.name, weight.network, *pair, calibration))
    return Report(tuple(layers), count(before), count(after), at_rest(before), at_rest(after))


_ON_OUTPUTS = "of outputs on the calibration data (and held out), "


def _pair(layer: LayerReport) -> str:
    """Return the error of the outputs, and that on held-out data."""
    errors = [f"{error:.3f}" for error in (layer.output_error, layer.held_out_error) if error is not None]
    return "–" if not errors else errors[0] + (f" ({errors[1]})" if len(errors) > 1 else "")
