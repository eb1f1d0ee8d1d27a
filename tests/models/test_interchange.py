"""Check that every front-end reads the files of every other one, bit for bit."""

from __future__ import annotations

from typing import Any

import deeptn_torch as dtt
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn.arrays import to_raw

from ..tiers import grid

FAMILIES = {"relu": dtn.BrickWall(layers=2), "train": dtn.TTMatrix(rank=2)}
KEY = jax.random.key(3)
ROWS = np.array([[3, 0, 19], [7, 7, 1]])
X = {
    "linear": np.random.default_rng(0).normal(size=(5, 20)).astype("float32"),
    "conv2d": np.random.default_rng(0).normal(size=(2, 4, 6, 7)).astype("float32"),
    "embedding": ROWS,
}


class Torch:
    @staticmethod
    def dense(kind: str, dtype: str) -> Any:
        make: Any = {"linear": nn.Linear, "conv2d": nn.Conv2d, "embedding": nn.Embedding}[kind]
        return nn.ModuleDict({"layer": make(*SIZES[kind], dtype=getattr(torch, dtype))})

    @staticmethod
    def make(kind: str, family: dtn.Topology, dtype: str) -> Any:
        torch.manual_seed(3)
        make: Any = {"linear": dtt.TNLinear, "conv2d": dtt.TNConv2d, "embedding": dtt.TNEmbedding}[kind]
        return nn.ModuleDict({"layer": make(*SIZES[kind], family, dtype=getattr(torch, dtype))})

    @staticmethod
    def call(model: Any, kind: str, dtype: str) -> np.ndarray:
        x = torch.as_tensor(X[kind])
        x = x if kind == "embedding" else x.to(getattr(torch, dtype))
        return model["layer"](x).detach().double().numpy()

    @staticmethod
    def cores(model: Any) -> dict[str, Any]:
        return dict(model["layer"].cores)

    save, load = staticmethod(dtt.save_model), staticmethod(dtt.load_model)


class Equinox:
    @staticmethod
    def dense(kind: str, dtype: str) -> Any:
        make: Any = {"linear": eqx.nn.Linear, "conv2d": eqx.nn.Conv2d, "embedding": eqx.nn.Embedding}[kind]
        return {"layer": make(*SIZES[kind], dtype=jnp.dtype(dtype), key=KEY)}

    @staticmethod
    def make(kind: str, family: dtn.Topology, dtype: str) -> Any:
        make: Any = {"linear": tne.TNLinear, "conv2d": tne.TNConv2d, "embedding": tne.TNEmbedding}[kind]
        return {"layer": make(*SIZES[kind], family, dtype=jnp.dtype(dtype), key=KEY)}

    @staticmethod
    def call(model: Any, kind: str, dtype: str) -> np.ndarray:
        x = jnp.asarray(X[kind])
        call = jax.vmap(model["layer"])
        if kind == "embedding":
            return np.asarray(jax.vmap(call)(x), "float64")
        return np.asarray(call(x.astype(dtype)), "float64")

    @staticmethod
    def cores(model: Any) -> dict[str, Any]:
        return model["layer"].cores

    save, load = staticmethod(tne.save_model), staticmethod(tne.load_model)


class NNX:
    @staticmethod
    def dense(kind: str, dtype: str) -> Any:
        make: Any = {"linear": nnx.Linear, "conv2d": nnx.Conv, "embedding": nnx.Embed}[kind]
        more = {"padding": "VALID"} if kind == "conv2d" else {}
        return nnx.Dict({"layer": make(*SIZES[kind], param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(3), **more)})

    @staticmethod
    def make(kind: str, family: dtn.Topology, dtype: str) -> Any:
        make: Any = {"linear": tnx.TNLinear, "conv2d": tnx.TNConv, "embedding": tnx.TNEmbed}[kind]
        more = {"padding": "VALID"} if kind == "conv2d" else {}
        return nnx.Dict({"layer": make(*SIZES[kind], family, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(3), **more)})

    @staticmethod
    def call(model: Any, kind: str, dtype: str) -> np.ndarray:
        x = jnp.asarray(X[kind])
        if kind == "conv2d":
            y = model["layer"](jnp.moveaxis(x, 1, -1).astype(dtype))
            return np.moveaxis(np.asarray(y, "float64"), -1, 1)
        return np.asarray(model["layer"](x if kind == "embedding" else x.astype(dtype)), "float64")

    @staticmethod
    def cores(model: Any) -> dict[str, Any]:
        return model["layer"].arrays

    save, load = staticmethod(tnx.save_model), staticmethod(tnx.load_model)


SIZES: dict[str, tuple[Any, ...]] = {"linear": (20, 12), "conv2d": (4, 6, (3, 3)), "embedding": (20, 12)}
FRONT_ENDS: dict[str, Any] = {"torch": Torch, "equinox": Equinox, "nnx": NNX}


@pytest.mark.few(1)
@grid(2, writer=FRONT_ENDS, family=FAMILIES, dtype=["float32", "bfloat16"], kind=list(SIZES))
def test_every_pair(writer, family, dtype, kind, tmp_path):
    theirs = writer
    model = theirs.make(kind, family, dtype)
    theirs.save(model, tmp_path / "m")
    wanted = theirs.call(model, kind, dtype)
    # NumPy
    layer = dtn.load_model(tmp_path / "m").layers["layer"]
    assert layer.kind == kind
    for name, core in theirs.cores(model).items():
        assert to_raw(core).tobytes() == layer.params[name].tobytes()
        assert to_raw(core).dtype == layer.params[name].dtype
    if kind == "linear" and dtype == "float32":
        assert layer.bias is not None
        assert np.allclose(layer.network.apply(layer.params, X[kind]) + layer.bias, wanted, atol=1e-6)
    dtn.save_model(dtn.files.StoredModel({"layer": layer}, {}), tmp_path / "again")
    for reader, mine in FRONT_ENDS.items():
        for file in ("m", "again"):
            read = mine.load(mine.dense(kind, dtype), tmp_path / file)
            for name, core in theirs.cores(model).items():
                assert to_raw(mine.cores(read)[name]).tobytes() == to_raw(core).tobytes(), reader
            assert np.allclose(mine.call(read, kind, dtype), wanted, atol=1e-6 if dtype == "float32" else 0.06), reader


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "bfloat16", "float16", "float64"])
def test_networks_of_any_dtype(dtype, tmp_path, x64):
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (6, 10))
    params = net.init(seed=1, like="torch", dtype=dtype)
    dtn.save(tmp_path / "w", net, params)
    for library in ("jax", "torch"):
        _, found = dtn.load(tmp_path / "w", like=library)
        dtn.save(tmp_path / "v", net, found)
        assert (tmp_path / "v").read_bytes() == (tmp_path / "w").read_bytes()
        assert all(to_raw(found[name]).tobytes() == to_raw(params[name]).tobytes() for name in params)


@pytest.mark.slow
def test_models_of_another_build_are_read_by_other_names(tmp_path):
    model = nn.Sequential(dtt.TNLinear(20, 12), nn.ReLU(), nn.Linear(12, 3))
    dtt.save_model(model, tmp_path / "m")
    x = X["linear"]
    wanted = model(torch.as_tensor(x)).detach().numpy()
    names = {"0": "layers.0", "2": "layers.1"}
    mlp = tne.load_model(eqx.nn.MLP(20, 3, 12, 1, key=KEY), tmp_path / "m", names)
    assert np.allclose(jax.vmap(mlp)(jnp.asarray(x)), wanted, atol=1e-5)
    dense = nnx.Sequential(nnx.Linear(20, 12, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(12, 3, rngs=nnx.Rngs(0)))
    other = tnx.load_model(dense, tmp_path / "m", {"0": "layers.0", "2": "layers.2"})
    assert np.allclose(other(jnp.asarray(x)), wanted, atol=1e-5)
    tne.save_model(mlp, tmp_path / "e")
    back = dtt.load_model(nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)), tmp_path / "e", names={
        "layers.0": "0", "layers.1": "2"})  # fmt: skip
    assert np.allclose(back(torch.as_tensor(x)).detach().numpy(), wanted, atol=1e-5)
    with pytest.raises(dtn.FormatError, match="do not fit"):
        tne.load_model(eqx.nn.MLP(20, 3, 12, 2, key=KEY), tmp_path / "m", names)
