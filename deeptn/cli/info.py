"""``deeptn info``: show what a file contains."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arrays import to_raw
from ..base import kilobytes, text_table
from ..errors import FormatError
from ..files import MODEL, NETWORK, StoredLayer, form_of, load, load_model
from ..topologies import describe
from .commands import Command

HEAD = ("layer", "kind", "weight", "topology", "parameters", "bytes", "dense bytes")


def _row(name: str, layer: StoredLayer) -> tuple[list[str], int, int]:
    """Return a row of the table, the bytes of the cores, and the bytes of the dense weight."""
    cores = [to_raw(core) for core in layer.params.values()]
    small, large = sum(core.nbytes for core in cores), layer.network.size * cores[0].itemsize
    shape = " × ".join(map(str, layer.network.shape))
    topology = "custom network" if layer.network.topology is None else describe(layer.network.topology)
    numbers = (layer.network.num_params, small, large)
    return [name, layer.kind, shape, topology, *(f"{number:,}" for number in numbers)], small, large


def _info(options: argparse.Namespace) -> int:
    path, form = options.file, form_of(options.file)
    if form == NETWORK:
        net, params = load(path)
        layers, tensors = {"": StoredLayer("weight", net, params, None)}, {}
    elif form == MODEL:
        model = load_model(path)
        layers = model.layers
        biases = {f"{name}.bias": layer.bias for name, layer in layers.items() if layer.bias is not None}
        tensors = {name: to_raw(array) for name, array in (model.tensors | biases).items()}
    else:
        raise FormatError(f"{path}: a file of the format {form!r}; deeptn info reads networks and models")
    if not layers:
        raise FormatError(f"{path}: the model has no generated layer")
    rows, small, large = zip(*(_row(name, layer) for name, layer in layers.items()))
    rest = sum(array.nbytes for array in {array.ctypes.data: array for array in tensors.values()}.values())
    size = Path(path).stat().st_size
    print(text_table([HEAD, *rows]))
    if tensors:
        count = sum(array.size for array in tensors.values())
        print(f"{len(tensors)} other tensors: {count:,} numbers, {rest:,} bytes")
    print(f"{kilobytes(size)} on disk; cores: {kilobytes(sum(small))}; the same weights dense: {kilobytes(sum(large))}")
    return 0


def _configure_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="file written by deeptn.save or save_model")


INFO = Command("show what a file contains and how large it is", _configure_info, _info)
