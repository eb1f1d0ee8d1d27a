"""Tracers, exporters and compilers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from .operations import operation
from .sides import BATCH, KINDS

GROUP = "Tracers and compilers"
NOT_RECURRENT = tuple(kind for kind in KINDS if kind not in ("LSTM", "GRU"))


def as_double(x):
    return x.double() if x.is_floating_point() else x


def follows(side, traced):
    """Return outputs of a traced model: for these inputs, for another batch, and after a change of the parameters."""
    y, z = traced(side.x), traced(side.batch(4))
    before = side.model(side.batch(4))
    with torch.no_grad():
        for param in side.model.parameters():
            param.mul_(1.5)
    w, after = traced(side.x), side.model(side.x)
    gap = float((w - after).abs().max() / after.abs().max())
    return {"y": y, "z": z, "same": torch.allclose(z, before, atol=1e-5), "follows": gap < 1e-4}


@operation(GROUP)
def traced(side):
    """`torch.jit.trace`, with its checks; other batches, changed parameters"""
    return follows(side, torch.jit.trace(side.model, side.x))


@operation(GROUP)
def traced_then_double(side):
    """`torch.jit.trace`, then `double()`"""
    traced: Any = torch.jit.trace(side.model, side.x)
    return {"y": traced.double()(as_double(side.x)).detach()}


@operation(GROUP, slow=True)
def exported_then_double(side):
    """`torch.export`, then `module().double()`"""
    return {"y": torch.export.export(side.model, (side.x,)).module().double()(as_double(side.x)).detach()}


@operation(GROUP)
def fake_tensors(side):
    """with parameters and inputs inside `FakeTensorMode`: shapes"""
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = side.model(side.x)
        y.sum().backward()
    return {"shape": tuple(y.shape), "dtype": y.dtype}


@operation(GROUP)
def traced_and_saved(side):
    """`torch.jit.trace`, saved and loaded, in evaluation"""
    traced = torch.jit.trace(side.model.eval(), side.x)
    with tempfile.TemporaryDirectory() as folder:
        torch.jit.save(traced, Path(folder) / "model.pt")
        return {"y": torch.jit.load(Path(folder) / "model.pt")(side.x).detach()}


@operation(GROUP, kinds=("Linear", "Linear, apply", "Conv2d", "Embedding"))
def scripted(side):
    """`torch.jit.script`"""
    return {"y": torch.jit.script(side.layer)(side.x).detach()}


@operation(GROUP)
def symbolic(side):
    """`torch.fx.symbolic_trace`; other batches, changed parameters"""
    graph = fx.symbolic_trace(side.model)
    assert not [node for node in graph.graph.nodes if "constant" in str(node.target)]
    return follows(side, graph)


class Reads(nn.Module):
    """A model that reads the weight of its layer."""

    def __init__(self, model, name):
        super().__init__()
        self.inner, self.name = model, name

    def forward(self, x):
        return x * getattr(self.inner.layer, self.name).sum()


@operation(GROUP)
def symbolic_weight(side):
    """`torch.fx.symbolic_trace` of a model that reads `layer.weight`"""
    model = Reads(side.model, side.main)
    graph = fx.symbolic_trace(model)
    with torch.no_grad():
        for param in side.model.parameters():
            param.mul_(1.5)
    return {"follows": torch.allclose(graph(side.x), model(side.x))}


@operation(GROUP, kinds=NOT_RECURRENT)
def make_fx_graph(side):
    """`make_fx`"""
    return {"y": make_fx(side.model)(side.x)(side.x).detach()}


def exported(side, **options):
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(side.model, (side.x,), dynamic_shapes=({BATCH[side.kind]: rows},), **options)
    assert not any("deeptn" in str(node.target) for node in program.graph.nodes)
    module = program.module()
    return {"y": module(side.x).detach(), "z": module(side.batch(4)).detach()}


@operation(GROUP, slow=True)
def exported_loosely(side):
    """`torch.export(strict=False)`, with a dynamic batch"""
    return exported(side, strict=False)


@operation(GROUP, slow=True)
def exported_strictly(side):
    """`torch.export(strict=True)`, with a dynamic batch"""
    return exported(side, strict=True)


def through(side, backend, **options):
    torch._dynamo.reset()
    found = side.backward(torch.compile(side.model, backend=backend, **options))
    return {key: found[key] for key in ("y", "x.grad", "grads")}


@operation(GROUP, slow=True, kinds=NOT_RECURRENT)
def compiled_whole(side):
    """`torch.compile(fullgraph=True)` with `aot_eager`, forwards and backwards"""
    return through(side, "aot_eager", fullgraph=True)


@operation(GROUP, slow=True)
def compiled_eager(side):
    """`torch.compile(backend="eager")`, then evaluation of the same model"""
    found = through(side, "eager")
    with torch.no_grad():
        return found | {"evaluated": side.model.eval()(side.x)}


@operation(GROUP, slow=True)
def compiled_dynamic(side):
    """`torch.compile(dynamic=True)`, with several batches"""
    torch._dynamo.reset()
    model = torch.compile(side.model, backend="aot_eager", dynamic=True)
    return {str(size): model(side.batch(size)).detach() for size in (2, 3, 5)}


@operation(GROUP, slow=True)
def onnx(side):
    """`torch.onnx.export`"""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(side.model.eval(), (side.x,), path, dynamo=True, optimize=False, verbose=False)
        session = onnxruntime.InferenceSession(path)
        return {"y": torch.from_numpy(session.run(None, {session.get_inputs()[0].name: side.x.numpy()})[0])}
