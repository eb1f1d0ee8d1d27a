"""Test parts of models and their names: modules with several names, ties, containers, user-defined variables."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from deeptn_jax.nnx import graph
from deeptn_jax.view import VIEWS
from deeptn_torch import TNLinear, compress, load_model, save_model
from flax import nnx, struct
from flax.core import FrozenDict
from torch import nn

import deeptn as dtn
from deeptn import models

KEY = jax.random.key(0)
NET = dtn.network("LowRank", (4, 4))


def dense() -> Any:
    return eqx.nn.Linear(4, 4, key=KEY)


def linear(seed: int = 0) -> nnx.Linear:
    return nnx.Linear(4, 4, rngs=nnx.Rngs(seed))


def generated(seed: int = 0, **options: Any) -> tnx.TNLinear:
    return tnx.TNLinear(4, 4, dtn.LowRank(rank=1), rngs=nnx.Rngs(seed), **options)


def shared_torch() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(4, 4)})


def shared_nnx() -> nnx.Module:
    layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    return nnx.Dict({"a": layer, "b": layer, "c": nnx.Linear(4, 4, rngs=nnx.Rngs(1))})


@pytest.mark.parametrize("target", ["a", "c"])
def test_layers_of_two_names(target, tmp_path):
    small, report = compress(shared_torch(), {target: "LowRank"})
    save_model(small, tmp_path / "torch")
    other, rows = tnx.compress(shared_nnx(), {target: "LowRank"})
    tnx.save_model(other, tmp_path / "nnx")
    assert (report.params_before, report.params_after) == (rows.params_before, rows.params_after)
    for file in ("torch", "nnx"):
        stored = dtn.load_model(tmp_path / file)
        assert set(stored.layers) == ({"a", "b"} if target == "a" else {"c"})
        held = {name: array.tobytes() for name, array in stored.state().items()}
        read: Any = load_model(shared_torch(), tmp_path / file)
        assert read["a"] is read["b"]
        save_model(read, tmp_path / "again")
        assert {n: array.tobytes() for n, array in dtn.load_model(tmp_path / "again").state().items()} == held
        mine: Any = tnx.load_model(shared_nnx(), tmp_path / file)
        assert mine["a"] is mine["b"]
        tnx.save_model(mine, tmp_path / "again")
        assert {n: array.tobytes() for n, array in dtn.load_model(tmp_path / "again").state().items()} == held
        apart: Any = tne.load_model({name: dense() for name in "abc"}, tmp_path / file)
        assert np.allclose(apart["a"](jnp.ones(4)), apart["b"](jnp.ones(4)))


def test_generated_weights_of_a_module_of_two_names(tmp_path):
    def model() -> Any:
        lstm = nn.LSTM(4, 4)
        return nn.ModuleDict({"a": lstm, "b": lstm})

    small, _ = compress(model(), {"a.weight_hh_l0": "LowRank"}, fit=None)
    save_model(small, tmp_path / "m")
    read: Any = load_model(model(), tmp_path / "m")
    assert read["a"] is read["b"]
    assert torch.equal(read["b"](torch.ones(3, 4))[0], small["a"](torch.ones(3, 4))[0])


def test_tied_variables_in_nnx_are_refused(tmp_path):
    class Tied(nnx.Module):
        def __init__(self):
            self.fc, self.head = (nnx.Linear(4, 4, rngs=nnx.Rngs(n)) for n in range(2))
            self.fc.bias = self.head.bias

    with pytest.raises(dtn.PlanError, match=r"'fc' shares its bias with 'head.bias'"):
        tnx.compress(Tied(), {"fc": "LowRank"})
    free, _ = tnx.compress(shared_nnx(), {"c": "LowRank"})
    assert isinstance(free["c"], tnx.TNLinear)  # type: ignore[index]
    tnx.save_model(nnx.Dict({"fc": tnx.TNLinear(4, 4, "LowRank", rngs=nnx.Rngs(0))}), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="shares its bias"):
        tnx.load_model(Tied(), tmp_path / "m")


def test_two_variables_of_one_name(tmp_path):
    class Both(nnx.Module):
        def __init__(self):
            self.fc = tnx.TNLinear(4, 4, rngs=nnx.Rngs(0))
            self.weight, self.scale = nnx.Param(jnp.ones(3)), nnx.Param(jnp.ones(3))

    with pytest.raises(dtn.PlanError, match="both be stored as 'weight'"):
        tnx.save_model(Both(), tmp_path / "m")


def test_modules_in_plain_containers_are_refused():
    class Plain(nnx.Module):
        def __init__(self):
            self.layers = nnx.data([nnx.Linear(4, 4, rngs=nnx.Rngs(0))])

    with pytest.raises(dtn.PlanError, match="plain container"):
        tnx.compress(Plain(), {"layers.0": "LowRank"}, fit=None)


def test_variables_of_your_own_in_nnx(tmp_path):
    class Scale(nnx.Variable):
        pass

    class Kernel(nnx.Param):
        pass

    class Model(nnx.Module):
        def __init__(self):
            self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.fc.kernel = Kernel(self.fc.kernel[...])
            self.scale = Scale(jnp.ones(3))
            self.more = nnx.data([nnx.Param(jnp.ones(2))])
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
            self.cache = nnx.Cache(jnp.ones(2))

    small, _ = tnx.compress(Model(), {"fc": "LowRank"})
    assert all(isinstance(core, Kernel) for core in small.fc.cores.values())  # type: ignore[attr-defined]
    assert isinstance(tnx.fold(small).fc.kernel, Kernel)
    small.scale[...], small.more[0][...] = jnp.full(3, 5.0), jnp.full(2, 6.0)
    tnx.save_model(small, tmp_path / "m")
    assert set(dtn.load_model(tmp_path / "m").tensors) == {"weight", "more.0"}
    read = tnx.load_model(Model(), tmp_path / "m")
    assert float(read.scale[0]) == 5.0
    assert float(read.more[0][0]) == 6.0


def test_keys_with_dots_are_refused(tmp_path):
    layer = tne.TNLinear(4, 4, "LowRank", key=KEY)
    with pytest.raises(dtn.PlanError, match=r"two parts of the model have the path 'a.b'"):
        tne.save_model({"a.b": layer, "a": {"b": layer}}, tmp_path / "m")
    inner = nnx.Dict({"b": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0))})
    with pytest.raises(dtn.PlanError, match=r"two parts of the model have the path 'a.b'"):
        tnx.save_model(nnx.Dict({"a.b": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0)), "a": inner}), tmp_path / "m")


@struct.dataclass
class Record:
    a: Any


class Pair(NamedTuple):
    a: Any


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (Record, "d.a"),
        (Pair, "d.a"),
        (lambda part: FrozenDict({"a": part}), "d.a"),
        (lambda part: [part], "d.0"),
        (lambda part: (part,), "d.0"),
        (lambda part: {"a": part}, "d.a"),
    ],
)
def test_what_containers_of_any_kind_hold(make, path, tmp_path):
    class Model(nnx.Module):
        def __init__(self, part: Any):
            self.fc = generated()
            self.d = nnx.data(make(part))

    tnx.save_model(Model(generated(1)), tmp_path / "m")
    assert set(dtn.load_model(tmp_path / "m").layers) == {"fc", path}
    with pytest.raises(dtn.PlanError, match="plain container"):
        tnx.fold(Model(generated(1)))
    tnx.save_model(Model(nnx.Param(jnp.full(2, 3.0))), tmp_path / "m")
    read: Any = tnx.load_model(Model(nnx.Param(jnp.ones(2))), tmp_path / "m")
    assert [float(leaf[0]) for leaf in jax.tree.leaves(read.d)] == [3.0]


def test_names_of_a_circle():
    class Node(nnx.Module):
        def __init__(self, seed: int):
            self.fc = generated(seed)
            self.others: Any = nnx.List([])

    nodes = [Node(seed) for seed in range(9)]
    for node in nodes:
        for other in nodes:
            node.others.append(other)
    held = graph.parts(nodes[0], tnx.TNLinear)
    assert len(held) == len(nodes)


def test_two_layers_of_a_file_in_one_of_the_model(tmp_path):
    apart = nnx.Dict({"a": generated(0), "b": generated(1)})
    tnx.save_model(apart, tmp_path / "m")
    layer: Any = linear()
    with pytest.raises(dtn.FormatError, match="'a' and 'b' are shared in the model"):
        tnx.load_model(nnx.Dict({"a": layer, "b": layer}), tmp_path / "m")
    other = nn.Linear(4, 4)
    with pytest.raises(dtn.FormatError, match="'a' and 'b' are shared in the model"):
        load_model(nn.ModuleDict({"a": other, "b": other}), tmp_path / "m")


def test_two_tensors_of_a_file_in_one_of_the_model(tmp_path):
    save_model(nn.ModuleDict({"fc": TNLinear(4, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), tmp_path / "m")
    other = nn.Linear(4, 4)
    with pytest.raises(dtn.FormatError, match=r"'a.weight' and 'b.weight' are shared in the model"):
        load_model(nn.ModuleDict({"fc": nn.Linear(4, 4), "a": other, "b": other}), tmp_path / "m")
    layer: Any = linear()
    with pytest.raises(dtn.FormatError, match=r"'a.\w+' and 'b.\w+' are shared in the model"):
        tnx.load_model(nnx.Dict({"fc": linear(1), "a": layer, "b": layer}), tmp_path / "m")


def test_a_tie_through_a_container_is_refused():
    class Tied(nnx.Module):
        def __init__(self):
            self.fc = linear()
            self.kept = nnx.data({"k": self.fc.kernel})

    with pytest.raises(dtn.PlanError, match=r"'fc' shares its kernel with 'kept.k'"):
        tnx.compress(Tied(), {"fc": "LowRank"})


def test_the_first_name_of_a_module_is_the_first_that_was_set():
    class Model(nnx.Module):
        def __init__(self):
            self.z = linear()
            self.a = self.z

    small, report = tnx.compress(Model(), {"z": "LowRank"})
    assert small.a is small.z
    assert [row.name for row in report.layers] == ["z"]


def test_values_of_variables(tmp_path):
    class Count(nnx.Variable):
        pass

    class Doubled(nnx.Param):
        def get_value(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().get_value(*args, **kwargs)

    def model(number: int) -> Any:
        kernel = Doubled(jnp.full(2, 0.5 * number))
        numbers = {"n": Count(number), "x": Count(number / 2), "numpy": Count(np.float64(number)), "none": Count(None)}
        return nnx.Dict({"fc": generated(), "k": kernel, **numbers})

    assert model(3)["k"].get_value().tolist() == [3.0, 3.0]
    tnx.save_model(model(3), tmp_path / "m")
    read = tnx.load_model(model(0), tmp_path / "m")
    assert read["n"].get_raw_value() == 3
    assert type(read["n"].get_raw_value()) is int
    assert (read["x"].get_raw_value(), type(read["x"].get_raw_value())) == (1.5, float)
    assert isinstance(read["numpy"].get_raw_value(), (np.generic, np.ndarray))
    assert read["numpy"].get_raw_value() == 3
    assert read["k"].get_raw_value().tolist() == [1.5, 1.5]
    with pytest.raises(dtn.PlanError, match=r"'n' is a Count of type str"):
        tnx.save_model(nnx.Dict({"fc": generated(), "n": Count("x")}), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="'n' is a Count"):
        tnx.save_model(nnx.Dict({"fc": generated(), "n": Count(KEY)}), tmp_path / "m")


def test_variables_beside_those_of_pytorch(tmp_path):
    class Scale(nnx.Variable):
        pass

    class Given(nnx.Param):
        def __init__(self, value: Any, factor: float, **more: Any):
            super().__init__(value, **more)

    model: Any = nnx.Dict({"fc": linear(), "q": linear(1), "mean": nnx.metrics.Average()})
    model["q"].scale = Scale(jnp.ones(2))
    model["fc"].kernel = Given(model["fc"].kernel[...], 2.0)
    small: Any = tnx.compress(model, {"fc": "LowRank"})[0]
    assert all(type(core) is nnx.Param for core in small["fc"].cores.values())
    tnx.save_model(small, tmp_path / "m")
    assert set(dtn.load_model(tmp_path / "m").tensors) == {"q.weight", "q.bias", "q.scale"}


def test_complex_layers_in_equinox(tmp_path):
    cores = NET.init(dtype="complex64")
    dtn.save_model(dtn.files.StoredModel({"fc": dtn.files.StoredLayer("linear", NET, cores, None)}, {}), tmp_path / "m")
    model = {"fc": eqx.nn.Linear(4, 4, use_bias=False, dtype=jnp.complex64, key=KEY)}
    read = tne.load_model(model, tmp_path / "m")
    assert all(np.asarray(read["fc"].cores[name]).tobytes() == cores[name].tobytes() for name in cores)  # type: ignore[attr-defined]


@pytest.fixture(params=[True, False], ids=["with Equinox", "alone"])
def views(request, monkeypatch) -> None:
    """Register the views that exist if NNX is imported with or without Equinox."""
    monkeypatch.setattr("deeptn_jax.view.VIEWS", VIEWS if request.param else VIEWS[:1])


@pytest.mark.usefixtures("views")
def test_nnx_modules_in_plain_containers(tmp_path):
    for model, name in (([linear()], "0"), ({"a": linear()}, "a")):
        with pytest.raises(dtn.PlanError, match=f"layer '{name}' is in a plain container; use nnx.List or nnx.Dict"):
            tnx.compress(model, {name: "LowRank"})
    with pytest.raises(dtn.PlanError, match="the model has no layer"):
        tnx.compress(None, {"a": "LowRank"})
    tnx.save_model({"a": generated(), "b": linear()}, tmp_path / "m")
    stored = dtn.load_model(tmp_path / "m")
    assert list(stored.layers) == ["a"]
    assert stored.tensors["b.weight"].shape == (4, 4)


def test_a_stored_model_is_seen_without_its_layers():
    cores = NET.init(seed=1)
    stored = dtn.files.StoredModel({"fc": dtn.files.StoredLayer("linear", NET, cores, None)}, {"fc.bias": np.ones(4)})
    view = models.StoredView(stored)
    (weight,) = view.weights()
    assert (weight.name, weight.kind, weight.shape, weight.bias) == ("fc", "linear", (4, 4), False)
    np.testing.assert_array_equal(weight.read(), NET.materialize(cores))
    view.write({"fc.cores.U": 2 * cores["U"]})
    layer = view.model.layers["fc"]
    np.testing.assert_array_equal(layer.params["U"], 2 * cores["U"])
    np.testing.assert_array_equal(layer.params["V"], cores["V"])
    assert layer.bias is None
    assert view.model.tensors["fc.bias"].tolist() == [1.0] * 4
    models.fold(view)
    np.testing.assert_array_equal(view.model.tensors["fc.weight"], NET.materialize(layer.params))
    assert view.seed(3) == view.seed(3) != view.seed(None)
