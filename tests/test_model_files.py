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
from deeptn_torch import TNLinear, compress, export_onnx, fold_, load_model, parametrize_, save_model
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


def test_jax_narrows_nothing_silently(tmp_path):
    layer = dtn.StoredLayer("linear", NET, NET.init(), np.zeros(4, "float32"))
    for value in (np.array([2**40]), np.ones(1)):
        dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": layer}, {"rest": value}))
        with pytest.raises(dtn.SpecError, match="JAX would narrow"):
            tne.load_model(Held(dense(), jnp.zeros(1)), tmp_path / "m")
    dtn.save_model(tmp_path / "m", dtn.StoredModel({"fc": layer}, {"rest": np.array([7])}))
    assert tne.load_model(Held(dense(), jnp.zeros(1, int)), tmp_path / "m").rest[0] == 7


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
