"""``deeptn info``: show what a file contains."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..arrays import to_raw
from ..base import kilobytes, text_table
from ..errors import FormatError
from ..files import MODEL, NETWORK, StoredLayer, StoredModel, form_of, load, load_model
from ..models import StoredView, at_rest, count
from ..topologies import describe
from .arguments import add_json, print_json
from .commands import Command

HEAD = ("layer", "kind", "weight", "topology", "parameters", "bytes", "dense bytes")


def _facts(name: str, layer: StoredLayer) -> dict[str, Any]:
    """Return what is known about a layer, as plain data."""
    net, cores = layer.network, [to_raw(core) for core in layer.params.values()]
    size = net.size * cores[0].itemsize
    return {
        "name": name,
        "kind": layer.kind,
        "shape": list(net.shape),
        "topology": "custom network" if net.topology is None else describe(net.topology),
        "params": net.num_params,
        "dense_params": net.size,
        "ratio": net.size / net.num_params,
        "bytes": sum(core.nbytes for core in cores),
        "dense_bytes": size,
        "decoded_bytes": size,
        "peak_bytes": net.cost().peak * cores[0].itemsize,
    }


def _content(path: Path) -> tuple[str, StoredModel]:
    """Return the format of a file, and its layers and other tensors, biases among them."""
    try:
        form = form_of(path)
    except FormatError as error:
        raise FormatError(f"{error}; for other checkpoints, use deeptn inspect") from error
    if form == NETWORK:
        net, params = load(path)
        return form, StoredModel({"": StoredLayer("weight", net, params, None)}, {})
    if form == MODEL:
        return form, load_model(path)
    raise FormatError(f"{path}: a file of the format {form!r}; deeptn info reads networks and models")


def _report(path: Path) -> dict[str, Any]:
    """Return what a file contains, as plain data. Layers that share their cores are counted once, except decoded."""
    form, model = _content(path)
    if not model.layers:
        raise FormatError(f"{path}: the model has no generated layer")
    layers = [_facts(name, layer) for name, layer in model.layers.items()]
    view = StoredView(model)
    first = {weight.name for weight in view.weights() if weight.network is not None}
    once = [facts for facts in layers if facts["name"] in first]
    sums = {key: sum(facts[key] for facts in once) for key in ("params", "dense_params", "bytes", "dense_bytes")}
    biases = {f"{name}.bias": layer.bias for name, layer in model.layers.items() if layer.bias is not None}
    tensors = [to_raw(array) for array in {**model.tensors, **biases}.values()]
    return {
        "format": form,
        "layers": layers,
        "other_tensors": len(tensors),
        "other_numbers": sum(array.size for array in tensors),
        "other_bytes": sum(array.nbytes for array in {array.ctypes.data: array for array in tensors}.values()),
        "totals": {
            "disk_bytes": path.stat().st_size,
            "params_at_rest": count(view),
            "bytes_at_rest": at_rest(view),
            **sums,
            "ratio": sums["dense_params"] / sums["params"],
            "decoded_bytes": sum(facts["decoded_bytes"] for facts in layers),
            "peak_bytes": max(facts["peak_bytes"] for facts in layers),
        },
    }


def _row(facts: dict[str, Any]) -> list[str]:
    numbers = (f"{facts[key]:,}" for key in ("params", "bytes", "dense_bytes"))
    return [facts["name"], facts["kind"], " × ".join(map(str, facts["shape"])), facts["topology"], *numbers]


def _info(options: argparse.Namespace) -> int:
    found = _report(options.file)
    if options.json:
        print_json(found)
        return 0
    totals = found["totals"]
    print(text_table([HEAD, *map(_row, found["layers"])]))
    if found["other_tensors"]:
        numbers, rest = found["other_numbers"], found["other_bytes"]
        print(f"{found['other_tensors']} other tensors: {numbers:,} numbers, {rest:,} bytes")
    small, large = kilobytes(totals["bytes"]), kilobytes(totals["dense_bytes"])
    print(f"{kilobytes(totals['disk_bytes'])} on disk; cores: {small}; the same weights dense: {large}")
    return 0


def _configure_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="file written by deeptn.save or save_model")
    add_json(parser)


INFO = Command("show what a file contains and how large it is", _configure_info, _info)
