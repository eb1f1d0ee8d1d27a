"""Export to ONNX: a small file whose graph decodes the weights, or a plain one with decoded weights."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from deeptn.base import PathLike, optional, write_atomically
from deeptn.errors import PlanError

from .layers import TNLayer, TNWeight, layers_of
from .models import fold_


def export_onnx(model: nn.Module, args: tuple[Any, ...], path: PathLike, *, fold: bool = False, **options: Any) -> None:
    """Write a model for onnxruntime and other ONNX runtimes.

    Parameters
    ----------
    model : nn.Module
        Not modified; exported in eval mode.
    args : tuple
        Example inputs.
    path : path
        An existing file is replaced completely, or not at all.
    fold : bool
        False: the file contains the cores, and its graph decodes them at every call, so the file is as small as the
        network. True: the file contains the decoded weights and the graph of the dense model.
    **options
        As for `torch.onnx.export`: ``dynamic_shapes``, ``input_names``, …

    Raises
    ------
    deeptn.PlanError
        If the model has no generated layer, the file would exceed the 2 GiB that ONNX allows, or `options` contains one
        that this function sets itself (``f``, ``dynamo``, ``optimize``, ``verbose``).
    deeptn.MissingBackendError
        If onnx or onnxscript is not installed.

    Examples
    --------
    >>> import os, tempfile, torch, deeptn as dtn
    >>> from deeptn_torch import TNLinear
    >>> model = torch.nn.Sequential(TNLinear(784, 256, dtn.BrickWall(layers=2)), torch.nn.ReLU())
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> export_onnx(model, (torch.ones(1, 784),), path)
    >>> os.path.getsize(path) < 4 * 784 * 256 / 10
    True
    """
    optional("onnxscript", "onnx")  # torch's exporter needs it
    from google.protobuf.message import EncodeError

    if not any(layers_of(model)):
        raise PlanError("the model has no generated layer; use torch.onnx.export instead")
    if isinstance(model, TNWeight) and fold:
        raise PlanError("a TNWeight alone has no dense layer to fold into; export the module that uses it")
    if own := options.keys() & {"f", "dynamo", "optimize", "verbose"}:
        raise PlanError(f"export_onnx sets {min(own)!r} itself; omit it, or use torch.onnx.export")
    model = copy.deepcopy(model).eval()
    for layer in layers_of(model):  # ONNX has no equivalent for the map of a constraint
        for name in layer.network.spec.param_shapes:
            if parametrize.is_parametrized(layer.cores, name):
                parametrize.remove_parametrizations(layer.cores, name)
    if fold and isinstance(model, TNLayer):
        model = model.to_dense()
    elif fold:
        fold_(model)
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # torch's exporter warns about its own code
            warnings.simplefilter("ignore", category)
        # torch's graph optimizer would fold the decoded weights into constants, so it runs only with fold=True.
        program: Any = torch.onnx.export(model, args, dynamo=True, verbose=False, optimize=fold, **options)
    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):  # drop where each came from
        del part.metadata_props[:]
    try:
        content = proto.SerializeToString()
    except (ValueError, EncodeError) as error:
        way = "; pass fold=False" if fold else ""
        raise PlanError(f"the model does not fit into one ONNX file, at most 2 GiB ({error}){way}") from error
    write_atomically(path, lambda file: file.write_bytes(content))
