"""Check that every view of models, also the stand-in's, obeys the laws, and that each broken view fails its law."""

from __future__ import annotations

from dataclasses import replace
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
from deeptn_jax.equinox.view import EquinoxModel
from deeptn_jax.nnx.view import NNXModel
from deeptn_torch.view import TorchModel
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn import models
from deeptn.arrays import to_numpy
from deeptn.testing import MODEL_LAWS, check_model_view

from .. import standin as cp
from ..standin.view import CuPyModel, Linear, load_model, save_model

KEY = jax.random.key(0)


class OwnTorch(nn.Module):
    """A linear layer whose weight is (inputs, outputs)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return x @ self.weight + self.bias


class OwnEquinox(eqx.Module):
    weight: Any
    scale: Any

    def __call__(self, x):
        return self.scale * (self.weight @ x)


class OwnNNX(nnx.Module):
    """A linear layer whose weight is (outputs, inputs), with an additional variable."""

    def __init__(self, rngs: nnx.Rngs):
        self.table = nnx.Param(rngs.params.normal((5, 8)))
        self.scale = nnx.Param(jnp.full(5, 2.0))

    def __call__(self, x):
        return self.scale[...] * (x @ self.table[...].T)


dtt.register_layer(OwnTorch, "linear", axes=(1, 0))
tne.register_layer(OwnEquinox)
tnx.register_layer(OwnNNX, attribute="table")


class LoudTorch(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class LoudEquinox(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2 * super().__call__(x)


loud: Any = LoudEquinox


class LoudNNX(nnx.Linear):
    def __call__(self, x):  # type: ignore[override]
        return 2 * super().__call__(x)


class LoudLinear(Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class TorchParts(nn.Module):
    """Layers of all kinds, with two names, tied, with hooks; single weights; statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv, self.rnn = nn.Embedding(20, 8), nn.Conv1d(8, 6, 3), nn.LSTM(8, 8)
        self.up = nn.ConvTranspose2d(4, 6, 2, bias=False)
        self.fc = nn.Linear(8, 6)
        self.again, self.twin = self.fc, nn.Linear(8, 6)
        self.norm, self.own, self.loud = nn.BatchNorm1d(6), OwnTorch(), LoudTorch(8, 6)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.heard = nn.Linear(4, 4).requires_grad_(False)
        self.heard.register_forward_hook(lambda *_: None)


class NNXParts(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed, self.conv = nnx.Embed(20, 8, rngs=rngs), nnx.Conv(8, 6, (3,), rngs=rngs)
        self.fc = nnx.Linear(8, 6, rngs=rngs)
        self.again, self.twin = self.fc, nnx.Linear(8, 6, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
        self.own, self.loud = OwnNNX(rngs), LoudNNX(8, 6, rngs=rngs)
        self.one, self.two = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.two.bias = self.one.bias
        self.plain = nnx.data([nnx.Linear(4, 4, rngs=rngs)])


def equinox_parts() -> Any:
    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(jax.random.split(KEY, 2))
    return {
        "embed": eqx.nn.Embedding(20, 8, key=KEY),
        "convs": [eqx.nn.Conv1d(8, 6, 3, key=KEY), eqx.nn.Conv2d(4, 6, 2, use_bias=False, key=KEY)],
        "fc": eqx.nn.Linear(8, 6, key=KEY),
        "twin": eqx.nn.Linear(8, 6, key=KEY),
        "own": OwnEquinox(jax.random.normal(KEY, (5, 8)), jnp.full(5, 2.0)),
        "loud": loud(8, 6, key=KEY),
        "stack": stack,
        "count": jnp.arange(3),
        "table": np.full(3, 0.1),
    }


def standin_parts() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    fc, twin, loud = (
        make(cp.asarray(draw.normal(size=(6, 8)).astype("float32")), cp.zeros(6, dtype="float32"))
        for make in (Linear, Linear, LoudLinear)
    )
    bare = Linear(cp.asarray(draw.normal(size=(4, 6)).astype("float32")), None)
    return {"fc": fc, "twin": twin, "again": fc, "loud": loud, "bare": bare, "scale": cp.zeros((2, 3), dtype="float64")}


VIEWS: dict[str, Any] = {
    "torch": lambda: TorchModel(TorchParts()),
    "equinox": lambda: EquinoxModel(equinox_parts()),
    "nnx": lambda: NNXModel.of_copy(NNXParts()),
    "stand-in": lambda: CuPyModel(standin_parts()),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("library", VIEWS)
def test_the_views_keep_the_laws(library):
    check_model_view(VIEWS[library])


SHOWN = {
    "torch": {
        "embed": "shares its weight with 'head.weight'",
        "head": "shares its weight with 'embed.weight'",
        "loud": "is a LoudTorch with its own forward",
        "heard": "has hooks",
    },
    "equinox": {"loud": "is a LoudEquinox with its own __call__", "stack": "has a stack of weights"},
    "nnx": {
        "loud": "is a LoudNNX with its own __call__",
        "one": "shares its bias with 'two.bias'",
        "two": "shares its bias with 'one.bias'",
        "plain.0": "is in a plain container",
    },
    "stand-in": {"loud": "is a LoudLinear with its own __call__"},
}
FREE = {
    "torch": "conv rnn.weight_ih_l0 rnn.weight_hh_l0 up fc twin own",
    "equinox": "embed convs.0 convs.1 fc twin own",
    "nnx": "embed conv fc twin own",
    "stand-in": "fc twin bare",
}


@pytest.mark.parametrize("library", VIEWS)
def test_what_a_model_shows(library):
    weights = VIEWS[library]().weights()
    assert {weight.name for weight in weights if weight.refused is None} == set(FREE[library].split())
    refused = {weight.name: weight.refused for weight in weights if weight.refused is not None}
    assert refused.keys() == SHOWN[library].keys()
    assert all(refused[name].startswith(why) for name, why in SHOWN[library].items())


@pytest.mark.parametrize("library", VIEWS)
def test_without_a_seed_every_draw_is_another(library):
    def drawn() -> list[bytes]:
        view = VIEWS[library]()
        torch.seed()  # the model itself is always the same
        models.compress(view, {"twin": "LowRank"}, fit=None)
        return [array.tobytes() for array in models.to_stored(view).layers["twin"].params.values()]

    assert drawn() != drawn()


OWN: dict[str, Any] = {
    "torch": (dtt.compress, dtt.save_model, dtt.load_model, lambda: nn.ModuleDict({"own": OwnTorch()}), torch.ones(8)),
    "equinox": (
        tne.compress,
        tne.save_model,
        tne.load_model,
        lambda: {"own": OwnEquinox(jax.random.normal(KEY, (5, 8)), jnp.full(5, 2.0))},
        jnp.ones(8),
    ),
    "nnx": (
        tnx.compress,
        tnx.save_model,
        tnx.load_model,
        lambda: nnx.Dict({"own": OwnNNX(nnx.Rngs(0))}),
        jnp.ones(8),
    ),
}


@pytest.mark.parametrize("library", OWN)
def test_layers_of_your_own(library, tmp_path):
    compress, save, load, make, x = OWN[library]
    model = make()
    small, report = compress(model, {"own": dtn.LowRank(rank=5)})
    assert report.layers[0].shape == (5, 8)
    wanted = to_numpy(model["own"](x))
    assert np.allclose(to_numpy(small["own"](x)), wanted, atol=1e-5)
    save(small, tmp_path / "m")
    layer = dtn.load_model(tmp_path / "m").layers["own"]
    assert (layer.kind, layer.network.shape) == ("linear", (5, 8))
    assert np.allclose(to_numpy(load(make(), tmp_path / "m")["own"](x)), wanted, atol=1e-5)


def test_a_layer_of_your_own_is_read_as_any_other_of_its_kind(tmp_path):
    model: Any = nn.ModuleDict({"own": OwnTorch()})
    small, _ = dtt.compress(model, {"own": dtn.LowRank(rank=5)})
    assert type(small["own"]).forward is OwnTorch.forward
    dtt.save_model(small, tmp_path / "m")
    plain: Any = tne.load_model({"own": eqx.nn.Linear(8, 5, key=KEY)}, tmp_path / "m")
    x = np.ones(8, "float32")
    assert np.allclose(plain["own"](x), to_numpy(model["own"](torch.as_tensor(x))), atol=1e-5)
    dtt.fold_(small)
    assert small["own"].weight.shape == (8, 5)  # in its own order of axes
    assert small["own"].weight.is_contiguous()


def test_files_of_the_stand_in_are_read_by_the_others(tmp_path):
    model = {"fc": standin_parts()["fc"]}
    models.compress(CuPyModel(model), {"fc": dtn.LowRank(rank=6)})
    save_model(model, tmp_path / "m")
    x = np.ones((3, 8), "float32")
    wanted = cp.asnumpy(model["fc"](cp.asarray(x)))
    read = dtt.load_model(nn.ModuleDict({"fc": nn.Linear(8, 6)}), tmp_path / "m")
    assert np.allclose(to_numpy(read["fc"](torch.as_tensor(x))), wanted, atol=1e-5)
    dtt.save_model(read, tmp_path / "n")
    back = load_model({"fc": standin_parts()["twin"]}, tmp_path / "n")
    assert np.allclose(cp.asnumpy(back["fc"](cp.asarray(x))), wanted, atol=1e-5)
    with pytest.raises(dtn.PlanError, match="CuPy has no gradients"):
        models.compress(CuPyModel(standin_parts()), {"fc": "BrickWall"})


class Forgetful(CuPyModel):
    """Loses the array ``scale`` whenever the weights are listed."""

    def weights(self):
        self.model = dict(self.model) | {"scale": cp.zeros((2, 3), dtype="float32")}
        return super().weights()


class OneName(CuPyModel):
    def weights(self):
        return [replace(weight, names=("fc", *weight.names[1:])) for weight in super().weights()]


class Turned(CuPyModel):
    def weights(self):
        return [replace(weight, shape=weight.shape[::-1]) for weight in super().weights()]


class BiasLost(CuPyModel):
    def replace(self, changes):
        super().replace(changes)
        for name, change in changes.items():
            if change is not None:
                self.model[name].bias = None


class OneNameReplaced(CuPyModel):
    def replace(self, changes):
        again = self.model["again"]
        super().replace(changes)
        self.model["again"] = again


class FoldedToNothing(CuPyModel):
    def replace(self, changes):
        super().replace(changes)
        for name, change in changes.items():
            if change is None:
                self.model[name].weight = cp.zeros(self.model[name].weight.shape, dtype="float32")


class WritesHalf(CuPyModel):
    def write(self, arrays):
        super().write({name: array.astype("float16") for name, array in arrays.items()})


class WritesElsewhere(CuPyModel):
    def write(self, arrays):
        super().write({"scale": np.ones((2, 3)) * len(arrays), **arrays})


class TiesApart(CuPyModel):
    """Reports arrays of equal shape as tied."""

    def entries(self):
        return {name: entry._replace(tie=entry.shape) for name, entry in super().entries().items()}


class OneAfterTheOther(CuPyModel):
    def replace(self, changes):
        for name, change in changes.items():
            super().replace({name: change})


class OneSeed(CuPyModel):
    def seed(self, given):
        return 0


class CoresUncounted(CuPyModel):
    def entries(self):
        return {name: entry._replace(trained=".cores." not in name) for name, entry in super().entries().items()}


class OneCoreRead(CuPyModel):
    def write(self, arrays):
        super().write({name: array for name, array in arrays.items() if not name.startswith("twin.cores")})


class AnyDtype(CuPyModel):
    def entries(self):
        return {name: entry._replace(dtype=None) for name, entry in super().entries().items()}


BROKEN: dict[str, tuple[type[CuPyModel], ...]] = {
    "look": (Forgetful,),
    "names": (OneName,),
    "shapes": (Turned,),
    "replace": (BiasLost, OneNameReplaced),
    "back": (FoldedToNothing,),
    "write": (WritesHalf,),
    "ties": (WritesElsewhere, TiesApart),
    "failure": (OneAfterTheOther,),
    "seed": (OneSeed,),
    "count": (CoresUncounted,),
    "files": (OneCoreRead,),
    "misfits": (AnyDtype,),
}


def test_every_law_is_broken_by_a_view():
    assert BROKEN.keys() == MODEL_LAWS.keys()


@pytest.mark.parametrize(("law", "view"), [(law, view) for law, views in BROKEN.items() for view in views])
def test_a_broken_view_is_named_by_the_law_that_it_breaks(law, view):
    with pytest.raises(AssertionError, match=f"law '{law}' of the model view {view.__name__}: "):
        check_model_view(lambda: view(standin_parts()))


def test_errors_of_a_view_carry_the_law_as_a_note():
    class Failing(CuPyModel):
        def write(self, arrays):
            raise OSError("no memory")

    with pytest.raises(OSError, match="no memory") as caught:
        check_model_view(lambda: Failing(standin_parts()))
    assert caught.value.__notes__ == ["law 'write' of the model view Failing"]


def test_a_model_without_a_free_weight_is_no_case():
    with pytest.raises(AssertionError, match="without a weight that can be generated"):
        check_model_view(lambda: CuPyModel({"scale": cp.zeros((2, 3), dtype="float32")}))
