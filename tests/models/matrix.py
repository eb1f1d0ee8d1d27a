"""Check every layer of every front-end with every kind of network, every dtype and every way of running it.

`test_matrix.py` runs these checks; `benchmarks/support.py` turns their results into a table in the documentation.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import deeptn as dtn

FAMILIES: dict[str, dtn.Topology] = {
    "brick wall": dtn.BrickWall(layers=2, activation=None),
    "brick wall, ReLU": dtn.BrickWall(layers=2),
    "tree": dtn.Tree(rank=2),
    "MERA": dtn.MERA(rank=2),
    "tensor train": dtn.TTMatrix(rank=2),
    "Tucker": dtn.Tucker(rank=2),
}
LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "embedding")
DTYPES = ("float32", "bfloat16", "float64")
WAYS = {
    "torch": ("eager", "compile", "export", "onnx"),
    "equinox": ("jit", "grad", "vmap"),
    "nnx": ("jit", "grad", "vmap"),
}
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float64": 1e-10}

#: Cases that do not work: patterns of (framework, layer, network, dtype, way), and the reasons.
EXPECTED_FAILURES: dict[tuple[str, str, str, str, str], str] = {
    (
        "torch",
        "*",
        "*",
        "bfloat16",
        "onnx",
    ): "onnxruntime on the CPU has no products of bfloat16, nor NumPy arrays",
    ("torch", "conv*", "*", "float64", "onnx"): "onnxruntime on the CPU has no float64 convolutions",
}

Case = tuple[str, str, str, str, str]
CASES: list[Case] = [
    (framework, layer, family, dtype, way)
    for framework, ways in WAYS.items()
    for layer, family, dtype, way in itertools.product(LAYERS, FAMILIES, DTYPES, ways)
]


def reason(case: Case) -> str | None:
    """Return why a case is expected to fail, or None if it is expected to work."""
    return next(
        (why for patterns, why in EXPECTED_FAILURES.items() if all(map(fnmatchcase, case, patterns))),
        None,
    )


def check(case: Case) -> None:
    """Run a case, and raise whatever goes wrong."""
    framework, layer, family, dtype, way = case
    CHECKS[framework](layer, FAMILIES[family], dtype, way)


def close(found: Any, wanted: Any, dtype: str) -> None:
    found, wanted = (a.detach().double() if isinstance(a, torch.Tensor) else a for a in (found, wanted))
    found, wanted = np.asarray(found, "float64"), np.asarray(wanted, "float64")
    scale = max(1.0, float(np.abs(wanted).max()))
    gap = float(np.abs(found - wanted).max()) / scale
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert gap < TOLERANCE[dtype], gap


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_layer(layer: str, family: dtn.Topology, dtype: str) -> tuple[Any, Callable[[int], torch.Tensor]]:
    """Return a layer, and a function that makes inputs with a given number of rows."""
    import deeptn_torch as dtt

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    if layer == "embedding":
        return dtt.TNEmbedding(20, 12, family, dtype=kind), lambda rows: torch.arange(rows * 3).reshape(rows, 3) % 20
    if layer == "linear":
        return dtt.TNLinear(20, 12, family, dtype=kind), lambda rows: torch.randn(rows, 20, dtype=kind)
    axes = int(layer[4])
    make = (dtt.TNConv1d, dtt.TNConv2d, dtt.TNConv3d)[axes - 1]
    return make(4, 6, 3, family, dtype=kind, padding=1), lambda rows: torch.randn(rows, 4, *[5] * axes, dtype=kind)


def check_torch(layer: str, family: dtn.Topology, dtype: str, way: str, backend: str = "aot_eager") -> None:
    module, inputs = torch_layer(layer, family, dtype)
    x = inputs(3)
    if way == "eager":
        exact = module.double()
        double = x.double() if x.is_floating_point() else x
        wanted = exact.to_dense()(double)
        module = module.to(getattr(torch, dtype))
        found = module(x)
        assert found.dtype == getattr(torch, dtype)
        close(found, wanted, dtype)
        found.float().square().sum().backward()
        assert all(core.grad is not None and torch.isfinite(core.grad).all() for core in module.cores.parameters())
    elif way == "compile":
        check_compiled(module, inputs, dtype, backend)
    elif way == "export":
        rows = torch.export.Dim("rows", min=2, max=64)
        program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: rows},))
        for number in (3, 7):
            x = inputs(number)
            close(program.module()(x), module(x), dtype)
    else:
        check_onnx(module.eval(), inputs, dtype)


def check_compiled(module: nn.Module, inputs: Callable[[int], torch.Tensor], dtype: str, backend: str) -> None:
    """Check for no graph breaks, at most two graphs for all numbers of rows, and gradients as in eager mode."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for rows in (2, 3, 5, 8):
        x = inputs(rows)
        module.zero_grad()
        wanted = module(x)
        wanted.float().square().sum().backward()
        gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        module.zero_grad()
        found = compiled(x)
        found.float().square().sum().backward()
        close(found, wanted, dtype)
        for parameter, gradient in zip(module.parameters(), gradients):
            close(parameter.grad, gradient, dtype)
    assert counter.frame_count <= 2, f"{counter.frame_count} graphs"


def check_onnx(module: nn.Module, inputs: Callable[[int], torch.Tensor], dtype: str) -> None:
    """Check export with and without folding, for several numbers of rows."""
    import onnxruntime
    from deeptn_torch import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        for fold in (False, True):
            path = Path(folder) / "model.onnx"
            rows = torch.export.Dim("rows", min=2, max=64)
            export_onnx(module, (inputs(3),), path, fold=fold, dynamic_shapes=({0: rows},))
            session = onnxruntime.InferenceSession(path)
            for number in (3, 7):
                x = inputs(number)
                (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
                close(found, module(x), dtype)


# --- JAX --------------------------------------------------------------------------------------------------------------


def check_equinox(layer: str, family: dtn.Topology, dtype: str, way: str) -> None:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from deeptn_jax import equinox as tne

    key = jax.random.key(0)
    with jax.enable_x64(dtype == "float64"):
        kind, wide = jnp.dtype(dtype), jnp.promote_types(dtype, "float32")
        if layer == "embedding":
            made: Any = tne.TNEmbedding(20, 12, family, kind, key=key)
            x = jnp.arange(6) * 3
        elif layer == "linear":
            made = tne.TNLinear(20, 12, family, dtype=kind, key=key)
            x = jax.random.normal(key, (6, 20), kind)
        else:
            axes = int(layer[4])
            make: Any = (tne.TNConv1d, tne.TNConv2d, tne.TNConv3d)[axes - 1]
            made = make(4, 6, 3, family, padding=1, dtype=kind, key=key)
            x = jax.random.normal(key, (6, 4, *[5] * axes), kind)
        wanted = jax.vmap(made.to_dense())(x)
        assert wanted.dtype == kind

        def loss(made: Any) -> Any:
            return jnp.sum(jax.vmap(made)(x).astype(wide) ** 2)

        if way == "vmap":
            close(jax.vmap(made)(x).astype(wide), wanted.astype(wide), dtype)
        elif way == "jit":
            found = eqx.filter_jit(lambda made, x: made(x))(made, x[0])
            close(found.astype(wide), wanted[0].astype(wide), dtype)
        else:
            gradient = eqx.filter_grad(loss)(made)
            by_dense = eqx.filter_grad(lambda made: loss(made.to_dense()))(made)
            for name in made.cores:
                close_relative(gradient.cores[name], by_dense.cores[name], dtype)


def check_nnx(layer: str, family: dtn.Topology, dtype: str, way: str) -> None:
    import jax
    import jax.numpy as jnp
    from deeptn_jax import nnx as tnx
    from flax import nnx

    key = jax.random.key(0)
    with jax.enable_x64(dtype == "float64"):
        kind, wide = jnp.dtype(dtype), jnp.promote_types(dtype, "float32")
        options: Any = {"rngs": nnx.Rngs(0), "param_dtype": kind}
        if layer == "embedding":
            made: Any = tnx.TNEmbed(20, 12, family, **options)
            x = jnp.arange(6) * 3
        elif layer == "linear":
            made = tnx.TNLinear(20, 12, family, **options)
            x = jax.random.normal(key, (6, 20), kind)
        else:
            axes = int(layer[4])
            made = tnx.TNConv(4, 6, [3] * axes, family, **options)
            x = jax.random.normal(key, (6, *[5] * axes, 4), kind)
        wanted = made.to_dense()(x)
        assert wanted.dtype == kind

        def loss(made: Any) -> Any:
            return jnp.sum(made(x).astype(wide) ** 2)

        if way == "jit":
            close(nnx.jit(lambda made, x: made(x))(made, x).astype(wide), wanted.astype(wide), dtype)
        elif way == "vmap":
            found = nnx.vmap(lambda made, x: made(x), in_axes=(None, 0))(made, x)
            close(found.astype(wide), wanted.astype(wide), dtype)
        else:
            gradient = nnx.grad(loss)(made)
            by_dense = nnx.grad(lambda made: loss(made.to_dense()))(made)
            for name in made.network.spec.param_shapes:
                close_relative(gradient["cores"][name][...], by_dense["cores"][name][...], dtype)


def close_relative(found: Any, wanted: Any, dtype: str) -> None:
    """Compare gradients, relative to their own size."""
    found, wanted = np.asarray(found, "float64"), np.asarray(wanted, "float64")
    assert np.isfinite(found).all()
    gap = np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30)
    assert gap < 10 * TOLERANCE[dtype], gap


CHECKS: dict[str, Callable[..., None]] = {"torch": check_torch, "equinox": check_equinox, "nnx": check_nnx}
