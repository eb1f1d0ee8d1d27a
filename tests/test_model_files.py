"""What may go wrong with models and their files, found by review: each case was a silent error once."""

from __future__ import annotations

import copy
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from deeptn_torch import TNLinear, TNWeight, compress, export_onnx, fold_, load_model, parametrize_, save_model
from flax import nnx
from torch import nn

import deeptn as dtn

KEY = jax.random.key(0)
NET = dtn.network("LowRank", (4, 4))


class Held(eqx.Module):
    fc: Any
    rest: Any = None


def dense() -> Any:
    return eqx.nn.Linear(4, 4, key=KEY)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int8", "int32"])
def test_indices_of_any_integer_type(dtype):
    rows = jnp.array([3, 100], dtype)
    table: Any = tnx.TNEmbed(300, 4, dtn.TTMatrix(rank=2), rngs=nnx.Rngs(0), mode="apply")
    assert np.allclose(table(rows), table.embedding[rows.astype(int)], atol=1e-6)
    other = tne.TNEmbedding(300, 4, dtn.TTMatrix(rank=2), key=KEY, mode="apply")
    assert np.allclose(jax.vmap(other)(rows), other.weight[rows.astype(int)], atol=1e-6)


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


def test_layers_that_compute_something_else_are_left_alone():
    class Louder(eqx.nn.Linear):
        def __call__(self, x, *, key=None):
            return 100 * super().__call__(x)

    louder: Any = Louder
    model = eqx.nn.Sequential([louder(8, 8, key=KEY), eqx.nn.Linear(8, 8, key=KEY)])
    with pytest.raises(dtn.PlanError, match=r"'layers.0' matches none"):
        tne.compress(model, {"layers.0": "LowRank"})


def test_a_shared_weight_elsewhere_does_no_harm():
    embed, tied = eqx.nn.Embedding(4, 6, key=KEY), eqx.nn.Linear(6, 4, use_bias=False, key=KEY)
    shared = eqx.nn.Shared((embed, tied), lambda pair: pair[1].weight, lambda pair: pair[0].weight)
    small, _ = tne.compress(Held(dense(), shared), {"fc": "LowRank"})
    assert isinstance(small.fc, tne.TNLinear)


def test_what_does_not_fit_an_equinox_model(tmp_path):
    layer = tne.TNLinear(4, 4, "LowRank", key=KEY)
    tne.save_model(Held(layer, jnp.ones((2, 3))), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match="the model's"):
        tne.load_model(Held(dense(), jnp.ones((3, 2))), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match=r"a key of jax.random"):
        tne.save_model(Held(layer, KEY), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="transposed convolution"):
        tne.save_model(Held(layer, eqx.nn.ConvTranspose1d(3, 3, 2, key=KEY)), tmp_path / "m")
    model = nnx.Dict(
        {"fc": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0)), "up": nnx.ConvTranspose(3, 3, (2,), rngs=nnx.Rngs(0))}
    )
    with pytest.raises(dtn.PlanError, match="transposed convolution"):
        tnx.save_model(model, tmp_path / "m")


@pytest.mark.parametrize("mode", ["apply", "materialize"])
def test_mixed_dtypes_in_equinox(mode):
    half = tne.TNLinear(8, 4, dtn.TTMatrix(rank=2), dtype=jnp.bfloat16, key=KEY, mode=mode)
    assert half(jnp.ones(8)).dtype == jnp.float32
    bare = tne.TNLinear(8, 4, dtn.TTMatrix(rank=2), use_bias=False, key=KEY, mode=mode)
    assert bool(jnp.any(jnp.imag(bare(jnp.full(8, 1j))) != 0))


@pytest.mark.parametrize(
    "bias", [np.ones(1, "float32"), np.ones(3, "float32"), np.ones((4, 1), "float32"), np.ones(4, int)]
)
def test_a_bias_of_another_shape(bias, tmp_path):
    layer = dtn.StoredLayer("linear", NET, NET.init(), bias)
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"a": layer}, {}))
    with pytest.raises(dtn.FormatError, match="a bias of"):
        dtn.load_model(tmp_path / "m")


def test_what_cannot_be_stored(tmp_path):
    params = NET.init()
    with pytest.raises(dtn.SpecError, match="expected floats"):
        dtn.save(tmp_path / "m", NET, params | {"V": np.ones(params["V"].shape, int)})
    model = nn.Module()
    model.fc = TNLinear(4, 4)
    model.register_buffer("a", torch.ones(3).to(torch.float8_e4m3fn))
    with pytest.raises(dtn.SpecError, match="float8_e4m3fn"):
        save_model(model, tmp_path / "m")


READERS: dict[str, Any] = {
    "torch": lambda rest: (load_model, Both(nn.Linear(4, 4), torch.as_tensor(rest))),
    "equinox": lambda rest: (tne.load_model, Held(dense(), jnp.asarray(rest))),
    "nnx": lambda rest: (
        tnx.load_model,
        nnx.Dict({"fc": nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "rest": nnx.BatchStat(jnp.asarray(rest))}),
    ),
}


class Both(nn.Module):
    def __init__(self, fc: nn.Module, rest: torch.Tensor):
        super().__init__()
        self.fc = fc
        self.register_buffer("rest", rest)


@pytest.mark.parametrize("reader", READERS)
def test_what_a_model_reads_has_its_own_dtype(reader, tmp_path):
    load, model = READERS[reader](np.zeros(2, "float32"))
    double = {name: core.astype("float64") for name, core in NET.init().items()}
    layer = dtn.StoredLayer("linear", NET, double, np.zeros(4, "float16"))
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": layer}, {"rest": np.array([1, 2])}))
    read = load(model, tmp_path / "m")
    save = {"torch": save_model, "equinox": tne.save_model, "nnx": tnx.save_model}[reader]
    save(read, tmp_path / "n")
    found = dtn.load_model(tmp_path / "n")
    assert {array.dtype.name for array in found.state().values()} == {"float32"}
    assert all((found.layers["fc"].params[name] == double[name].astype("float32")).all() for name in double)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("stored", "held"),
    [(1j * np.ones(2), "float32"), (np.full(2, 0.5), "int32"), (np.array([0, 2**40]), "int32")],
    ids=["imaginary", "fraction", "large"],
)
def test_what_a_model_cannot_hold_is_refused(reader, stored, held, tmp_path):
    load, model = READERS[reader](np.zeros(2, held))
    layer = dtn.StoredLayer("linear", NET, NET.init(), np.zeros(4, "float32"))
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": layer}, {"rest": stored}))
    with pytest.raises(dtn.FormatError, match=f"of {stored.dtype} in the file, of {held} in the model"):
        load(model, tmp_path / "m")
    cores = dtn.StoredLayer("linear", NET, NET.init(dtype="complex64"), np.zeros(4, "float32"))
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": cores}, {"rest": np.zeros(2, held)}))
    with pytest.raises(dtn.FormatError, match="of complex64 in the file"):
        load(model, tmp_path / "m")


def test_complex_entries_keep_every_bit(tmp_path):
    odd = np.array([complex(-0.0, -0.0), complex(np.inf, np.nan), complex(1, -np.inf)], "complex64")
    layer = dtn.StoredLayer("linear", NET, NET.init(), None)
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": layer}, {"odd": odd, "one": odd[:1].reshape(())}))
    found = dtn.load_model(tmp_path / "m").tensors
    assert found["odd"].tobytes() == odd.tobytes()
    assert found["one"].shape == ()


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

    with pytest.raises(dtn.PlanError, match=r"'fc' shares its bias with 'head'"):
        tnx.compress(Tied(), {"fc": "LowRank"})
    free, _ = tnx.compress(shared_nnx(), {"c": "LowRank"})
    assert isinstance(free["c"], tnx.TNLinear)  # type: ignore[index]
    tnx.save_model(nnx.Dict({"fc": tnx.TNLinear(4, 4, "LowRank", rngs=nnx.Rngs(0))}), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="shares its bias"):
        tnx.load_model(Tied(), tmp_path / "m")


def test_what_torch_refuses_to_replace_in_a_file_too(tmp_path):
    class Louder(nn.Linear):
        def forward(self, x):
            return 100 * super().forward(x)

    save_model(nn.ModuleDict({"a": TNLinear(4, 4)}), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match="forward of its own"):
        load_model(nn.ModuleDict({"a": Louder(4, 4)}), tmp_path / "m")


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
    with pytest.raises(dtn.PlanError, match=r"two parts of the model are called 'a.b'"):
        tne.save_model({"a.b": layer, "a": {"b": layer}}, tmp_path / "m")
    inner = nnx.Dict({"b": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0))})
    with pytest.raises(dtn.PlanError, match=r"two parts of the model are called 'a.b'"):
        tnx.save_model(nnx.Dict({"a.b": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0)), "a": inner}), tmp_path / "m")


def test_a_product_of_your_own_takes_the_kernel():
    def twice(*args: Any, **kwargs: Any) -> jax.Array:
        return 2 * jax.lax.dot_general(*args, **kwargs)

    layers = [
        tnx.TNLinear(8, 8, "TTMatrix", rngs=nnx.Rngs(0), mode="apply", use_bias=False, **more)
        for more in ({}, {"dot_general": twice})
    ]
    assert np.allclose(2 * layers[0](jnp.ones(8)), layers[1](jnp.ones(8)), atol=1e-5)
    with pytest.raises(dtn.SpecError, match="kernel_init: the kernel is generated"):
        tnx.TNLinear(8, 8, rngs=nnx.Rngs(0), kernel_init=nnx.initializers.zeros)


def test_conjugate_views_are_not_their_base(tmp_path):
    z = torch.tensor([1 + 2j, 3 - 1j])
    model = nn.Module()
    model.fc = TNLinear(4, 4)
    model.register_buffer("a", z)
    model.register_buffer("b", z.conj())
    save_model(model, tmp_path / "m")
    found = dtn.load_model(tmp_path / "m").tensors
    assert bool((found["b"] == np.conj(found["a"])).all())


def test_frozen_layers_stay_frozen_in_files(tmp_path):
    frozen = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).requires_grad_(False)
    small, _ = compress(frozen, {"0": "LowRank"})
    save_model(small, tmp_path / "m")
    assert not any(p.requires_grad for p in load_model(frozen, tmp_path / "m").parameters())


def test_hooks_are_not_lost():
    model = nn.Sequential(TNLinear(8, 8))
    model[0].register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(dtn.PlanError, match="has hooks"):
        fold_(model)


def test_tied_weights_inside_are_refused():
    a, b = nn.GRUCell(4, 4), nn.GRUCell(4, 4)
    b.weight_hh = a.weight_hh
    with pytest.raises(dtn.PlanError, match=r"'0.weight_hh' is also '1.weight_hh'"):
        compress(nn.ModuleList([a, b]), {"0.weight_hh": "LowRank"}, fit=None)


def test_a_recurrent_module_that_was_moved_can_be_copied():
    lstm = nn.LSTM(8, 8)
    parametrize_(lstm, "weight_hh_l0", "LowRank", fit=None)
    lstm.double()
    twin = copy.deepcopy(lstm)
    x = torch.ones(3, 8, dtype=torch.float64)
    assert torch.equal(twin(x)[0], lstm(x)[0])


@pytest.mark.filterwarnings("ignore")
def test_a_constrained_layer_is_exported(tmp_path):
    model = nn.Sequential(TNLinear(16, 16, dtn.Tree(rank=4)), nn.ReLU())
    model[0].constrain()  # type: ignore[operator]
    export_onnx(model, (torch.ones(2, 16),), tmp_path / "m.onnx")
    assert any("original" in name for name in model.state_dict())


def test_freezing_checks_first():
    layer = TNLinear(8, 8, dtn.BrickWall(layers=2))
    with pytest.raises(dtn.SpecError, match="stage 7"):
        layer.requires_grad_(False, stages=[1, 7])
    assert all(core.requires_grad for core in layer.cores.values())


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRUCell])
def test_recurrent_modules_draw_generated_weights_of_their_size(make):
    module = make(64, 64)
    name = next(name for name in module._parameters if name.startswith("weight_hh"))
    net = dtn.network(dtn.BrickWall(layers=2), tuple(getattr(module, name).shape))
    before = parametrize_(module, name, net, fit=None).weight.clone()
    module.reset_parameters()
    again = getattr(module, name).detach()
    assert not torch.equal(before, again)
    assert float(again.square().mean().sqrt()) == pytest.approx((3 * 64) ** -0.5, rel=0.05)


def test_what_export_refuses(tmp_path):
    with pytest.raises(dtn.PlanError, match="no dense layer to fold into"):
        export_onnx(TNWeight((8, 8)), (), tmp_path / "m", fold=True)
    with pytest.raises(dtn.PlanError, match="sets 'dynamo' itself"):
        export_onnx(nn.Sequential(TNLinear(8, 8)), (torch.ones(1, 8),), tmp_path / "m", dynamo=False)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_activations_without_a_meaning_for_complex_numbers(library):
    net = dtn.network(dtn.BrickWall(layers=2), (4, 4))
    with pytest.raises(dtn.SpecError, match="'relu', which has no meaning for complex64"):
        net.init(like=library, dtype="complex64")
    smooth = dtn.network(dtn.BrickWall(layers=2, activation="tanh"), (4, 4))
    params = smooth.init(like=library, dtype="complex64")
    assert smooth.materialize(params).shape == (4, 4)
    with pytest.raises(dtn.SpecError, match="no meaning"):
        net.materialize(params)
