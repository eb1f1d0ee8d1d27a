"""Test what can go wrong with models and their files: each case, found in a review, was once a silent error."""

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
from deeptn.arrays import cast

from ..tiers import choose

KEY = jax.random.key(0)
NET = dtn.network("LowRank", (4, 4))


class Held(eqx.Module):
    fc: Any
    rest: Any = None


def dense() -> Any:
    return eqx.nn.Linear(4, 4, key=KEY)


@pytest.mark.slow
@choose("dtype", ["uint8", "uint32", "int8", "int32"], ["uint8"])
def test_indices_of_any_integer_type(dtype):
    rows = jnp.array([3, 100], dtype)
    table: Any = tnx.TNEmbed(300, 4, dtn.TTMatrix(rank=2), rngs=nnx.Rngs(0), mode="apply")
    assert np.allclose(table(rows), table.embedding[rows.astype(int)], atol=1e-6)
    other = tne.TNEmbedding(300, 4, dtn.TTMatrix(rank=2), key=KEY, mode="apply")
    assert np.allclose(jax.vmap(other)(rows), other.weight[rows.astype(int)], atol=1e-6)


class LoudTorch(nn.Linear):
    def forward(self, input):
        return 100 * super().forward(input)


class LoudEquinox(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 100 * super().__call__(x)


loud: Any = LoudEquinox


class LoudNNX(nnx.Linear):
    def __call__(self, x):  # type: ignore[override]
        return 100 * super().__call__(x)


LOUD: dict[str, Any] = {
    "torch": lambda: (compress, load_model, nn.ModuleDict({"a": LoudTorch(4, 4), "b": nn.Linear(4, 4)})),
    "equinox": lambda: (tne.compress, tne.load_model, {"a": loud(4, 4, key=KEY), "b": dense()}),
    "nnx": lambda: (
        tnx.compress,
        tnx.load_model,
        nnx.Dict({"a": LoudNNX(4, 4, rngs=nnx.Rngs(0)), "b": nnx.Linear(4, 4, rngs=nnx.Rngs(0))}),
    ),
}


@pytest.mark.parametrize("library", LOUD)
@pytest.mark.parametrize("target", ["a", "*"])
def test_layers_that_compute_something_else_are_refused(library, target, tmp_path):
    make, load, model = LOUD[library]()
    with pytest.raises(dtn.PlanError, match=r"'a' is a Loud\w+ with its own \w+.*register_layer.*add 'a' to ignore"):
        make(model, {target: "LowRank"})
    _, report = make(model, {"*": "LowRank"}, ignore=["a"])
    assert [row.name for row in report.layers] == ["b"]
    save_model(nn.ModuleDict({"a": TNLinear(4, 4), "b": nn.Linear(4, 4)}), tmp_path / "m")
    with pytest.raises(dtn.PlanError, match=r"'a' is a Loud\w+ with its own \w+"):
        load(model, tmp_path / "m")


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
    with pytest.raises(dtn.PlanError, match=r"a jax.random key"):
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
    layer = dtn.files.StoredLayer("linear", NET, NET.init(), bias)
    dtn.save_model(dtn.files.StoredModel({"a": layer}, {}), tmp_path / "m")
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
    layer = dtn.files.StoredLayer("linear", NET, double, np.zeros(4, "float16"))
    dtn.save_model(dtn.files.StoredModel({"fc": layer}, {"rest": np.array([1, 2])}), tmp_path / "m")
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
    layer = dtn.files.StoredLayer("linear", NET, NET.init(), np.zeros(4, "float32"))
    dtn.save_model(dtn.files.StoredModel({"fc": layer}, {"rest": stored}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match=f"is {stored.dtype} in the file but {held} in the model"):
        load(model, tmp_path / "m")
    cores = dtn.files.StoredLayer("linear", NET, NET.init(dtype="complex64"), np.zeros(4, "float32"))
    dtn.save_model(dtn.files.StoredModel({"fc": cores}, {"rest": np.zeros(2, held)}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match="is complex64 in the file"):
        load(model, tmp_path / "m")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([100]), "int4"),
        (np.array([1.5], "float32"), "int4"),
        (np.array([1e6], "float32"), "float16"),
        (np.array([1e300]), "bfloat16"),
        (np.array([70_000]), "float16"),
        (np.array([-1]), "uint8"),
        (np.array([2]), "bool"),
    ],
)
def test_what_no_dtype_of_the_model_holds(values, dtype):
    with pytest.raises(dtn.FormatError, match=f"but {dtype} in the model"):
        cast(values, dtype, "x")
    assert np.isinf(cast(np.array([np.inf, 1.0]), "float16", "x")[0])


def test_complex_entries_keep_every_bit(tmp_path):
    odd = np.array([complex(-0.0, -0.0), complex(np.inf, np.nan), complex(1, -np.inf)], "complex64")
    layer = dtn.files.StoredLayer("linear", NET, NET.init(), None)
    dtn.save_model(dtn.files.StoredModel({"fc": layer}, {"odd": odd, "one": odd[:1].reshape(())}), tmp_path / "m")
    found = dtn.load_model(tmp_path / "m").tensors
    assert found["odd"].tobytes() == odd.tobytes()
    assert found["one"].shape == ()


def test_a_product_of_your_own_takes_the_kernel():
    def twice(*args: Any, **kwargs: Any) -> jax.Array:
        return 2 * jax.lax.dot_general(*args, **kwargs)

    options: Any = {"rngs": nnx.Rngs(0), "mode": "apply", "use_bias": False}
    plain = tnx.TNLinear(8, 8, "TTMatrix", **options)
    doubled = tnx.TNLinear(8, 8, "TTMatrix", **options | {"dot_general": twice, "rngs": nnx.Rngs(0)})
    assert np.allclose(2 * plain(jnp.ones(8)), doubled(jnp.ones(8)), atol=1e-5)
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
    with pytest.raises(dtn.PlanError, match=r"'0.weight_hh' shares its weight_hh with '1.weight_hh'"):
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


def test_a_draw_of_your_own_in_a_recurrent_module():
    class Mine(nn.LSTM):
        def reset_parameters(self, gain: float = 1.0) -> None:
            self.gain = gain
            super().reset_parameters()

    lstm: Any = Mine(8, 8)
    parametrize_(lstm, "weight_hh_l0", "LowRank", fit=None)
    lstm.__class__ = type("Sharded", (type(lstm),), {})  # like fully_shard
    with pytest.raises(dtn.PlanError, match="class was changed later"):
        fold_(nn.Sequential(lstm))
    lstm.reset_parameters(gain=2.0)
    assert lstm.gain == 2.0

    class Later(type(lstm)):
        def reset_parameters(self, gain: float = 1.0) -> None:
            super().reset_parameters(2 * gain)

    lstm.__class__ = Later
    lstm.reset_parameters()
    assert lstm.gain == 2.0


def test_a_file_that_onnx_cannot_hold(tmp_path, monkeypatch):
    message: Any = pytest.importorskip("google.protobuf.message")

    class Huge:
        class model_proto:
            class graph:
                node = value_info = initializer = ()

            @staticmethod
            def SerializeToString() -> bytes:
                raise message.EncodeError("Failed to serialize proto")

    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: Huge)
    with pytest.raises(dtn.PlanError, match="2 GiB"):
        export_onnx(nn.Sequential(TNLinear(8, 8)), (torch.ones(1, 8),), tmp_path / "m")
    assert not list(tmp_path.iterdir())


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
    mixed = {name: array * (1 + 1j) if n else array for n, (name, array) in enumerate(net.init(like=library).items())}
    with pytest.raises(dtn.SpecError, match="no meaning"):
        net.materialize(mixed)


class Weighing(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = TNWeight((4, 4), "LowRank")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w()


def test_a_bare_weight_in_a_module_of_your_own(tmp_path):
    model, x = Weighing(), torch.ones(1, 4)
    with pytest.raises(dtn.PlanError, match="in your own module"):
        fold_(model)
    save_model(model, tmp_path / "m")
    assert torch.equal(load_model(Weighing(), tmp_path / "m")(x), model(x))


def test_models_that_are_generated_already(tmp_path):
    model = nn.Sequential(TNLinear(4, 4, "LowRank", mode="apply", batch_hint=2), nn.LSTM(4, 4))
    parametrize_(model[1], "weight_hh_l0", "LowRank", fit=None)
    save_model(model, tmp_path / "m")

    def other() -> Any:
        made = nn.Sequential(TNLinear(4, 4, "LowRank", mode="apply", batch_hint=2), nn.LSTM(4, 4))
        parametrize_(made[1], "weight_hh_l0", "LowRank", fit=None)
        return made

    x = torch.ones(3, 4)
    read = load_model(other(), tmp_path / "m")
    assert read[0].mode == "apply"
    assert torch.equal(read(x)[0], model(x)[0])
    with pytest.raises(dtn.FormatError, match="with another network"):
        load_model(nn.Sequential(TNLinear(4, 4, "Tree"), nn.LSTM(4, 4)), tmp_path / "m")
    walls = [nn.Sequential(TNLinear(16, 16, dtn.Tree(rank=4))) for _ in range(2)]
    for wall in walls:
        wall[0].constrain()  # type: ignore[operator]
    save_model(walls[0], tmp_path / "m")
    with pytest.raises(dtn.FormatError, match=r"whose '0.cores.\w+' is constrained"):
        load_model(walls[1], tmp_path / "m")
    lstm: Any = nn.Sequential(nn.LSTM(4, 16))
    parametrize_(lstm[0], "weight_hh_l0", dtn.Tree(), fit=None).constrain()
    save_model(lstm, tmp_path / "m")
    assert torch.allclose(load_model(nn.Sequential(nn.LSTM(4, 16)), tmp_path / "m")(x)[0], lstm(x)[0], atol=1e-6)
    save_model(nn.ModuleDict({"fc": TNLinear(4, 4, "LowRank")}), tmp_path / "m")
    stored = dtn.load_model(tmp_path / "m").layers["fc"]
    mine = tne.load_model({"fc": tne.TNLinear(4, 4, "LowRank", key=KEY, mode="apply")}, tmp_path / "m")
    yours = tnx.load_model(
        nnx.Dict({"fc": tnx.TNLinear(4, 4, "LowRank", rngs=nnx.Rngs(0), mode="apply")}), tmp_path / "m"
    )
    for layer in (mine["fc"], yours["fc"]):
        assert layer.mode == "apply"
        expected = stored.network.apply(stored.params, np.ones(4, "float32")) + stored.bias
        assert np.allclose(layer(jnp.ones(4)), expected, atol=1e-6)
    with pytest.raises(dtn.FormatError, match="with another network"):
        tne.load_model({"fc": tne.TNLinear(4, 4, "Tree", key=KEY)}, tmp_path / "m")
    with pytest.raises(dtn.FormatError, match="with another network"):
        tnx.load_model(nnx.Dict({"fc": tnx.TNLinear(4, 4, "Tree", rngs=nnx.Rngs(0))}), tmp_path / "m")


def test_models_without_memory(tmp_path):
    save_model(nn.ModuleDict({"fc": TNLinear(4, 4, "LowRank")}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match="on the meta device"):
        load_model(nn.ModuleDict({"fc": nn.Linear(4, 4, device="meta")}), tmp_path / "m")
    abstract = nnx.eval_shape(lambda: nnx.Dict({"fc": nnx.Linear(4, 4, rngs=nnx.Rngs(0))}))
    read: Any = tnx.load_model(abstract, tmp_path / "m")
    assert read["fc"](jnp.ones(4)).shape == (4,)
    half = nnx.eval_shape(lambda: nnx.Dict({"fc": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0)), "b": nnx.Param(jnp.ones(2))}))
    for fails in (lambda: tnx.save_model(half, tmp_path / "m"), lambda: tnx.compress(abstract, {"fc": "LowRank"})):
        with pytest.raises(dtn.PlanError, match="no data"):
            fails()
    shapes = eqx.filter_eval_shape(lambda: {"fc": eqx.nn.Linear(4, 4, key=KEY)})
    assert tne.load_model(shapes, tmp_path / "m")["fc"](jnp.ones(4)).shape == (4,)
    shapes = eqx.filter_eval_shape(lambda: {"fc": tne.TNLinear(4, 4, "LowRank", key=KEY)})
    assert tne.load_model(shapes, tmp_path / "m")["fc"](jnp.ones(4)).shape == (4,)
    bare = eqx.filter_eval_shape(lambda: {"fc": eqx.nn.Linear(4, 4, key=KEY)})
    for fails in (
        lambda: tne.save_model(shapes, tmp_path / "m"),
        lambda: tne.compress(bare, {"fc": "LowRank"}),
        lambda: tne.fold(shapes),
        lambda: tnx.fold(half),
    ):
        with pytest.raises(dtn.PlanError, match="no data"):
            fails()


def test_generated_layers_that_a_file_does_not_have(tmp_path):
    save_model(nn.ModuleDict({"fc": TNLinear(4, 4)}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match=r"no generated layers \['rest'\]"):
        load_model(nn.ModuleDict({"fc": nn.Linear(4, 4), "rest": TNLinear(4, 4)}), tmp_path / "m")
    with pytest.raises(dtn.FormatError, match=r"no generated layers \['rest'\]"):
        tne.load_model(
            {"fc": eqx.nn.Linear(4, 4, key=KEY), "rest": tne.TNLinear(4, 4, key=KEY)},
            tmp_path / "m",
        )
    rngs = nnx.Rngs(0)
    with pytest.raises(dtn.FormatError, match=r"no generated layers \['rest'\]"):
        tnx.load_model(
            nnx.Dict({"fc": nnx.Linear(4, 4, rngs=rngs), "rest": tnx.TNLinear(4, 4, rngs=rngs)}),
            tmp_path / "m",
        )


def test_dtypes_that_files_do_not_have(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("rest", torch.ones(2))

        def get_extra_state(self) -> Any:
            return {"version": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    small, _ = compress(Model(), {"fc": "LowRank"})
    with pytest.raises(dtn.PlanError, match="_extra_state"):
        save_model(small, tmp_path / "m")
    save_model(Both(TNLinear(4, 4), torch.full((2,), 0.5)), tmp_path / "m")
    read: Any = load_model(Both(nn.Linear(4, 4), torch.ones(2).to(torch.float8_e5m2)), tmp_path / "m")
    assert read.rest.dtype == torch.float8_e5m2
    assert float(read.rest[0].float()) == 0.5
    with pytest.raises(dtn.FormatError, match=r"does not fit the model, whose '_extra_state' is a .*, not a tensor"):
        load_model(Model(), tmp_path / "m")


def test_numpy_arrays_in_jax_models(tmp_path):
    tne.save_model(Held(tne.TNLinear(4, 4, key=KEY), np.full(3, 0.1)), tmp_path / "m")
    read = tne.load_model(Held(dense(), np.ones(3)), tmp_path / "m")
    assert read.rest.tolist() == [0.1] * 3
    assert read.rest.dtype == np.float64
    model = nnx.Dict({"fc": tnx.TNLinear(4, 4, rngs=nnx.Rngs(0)), "rest": nnx.Param(np.full(3, 0.1))})
    tnx.save_model(model, tmp_path / "m")
    other = nnx.Dict({"fc": nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "rest": nnx.Param(np.ones(3))})
    assert tnx.load_model(other, tmp_path / "m")["rest"].get_raw_value().tolist() == [0.1] * 3  # type: ignore[index]
