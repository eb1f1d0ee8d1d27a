"""Check that every front-end, also the stand-in for an unknown library, obeys the laws, and broken ones do not."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, ClassVar

import autoray
import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy, to_raw
from deeptn.testing import LAWS, check_front_end, default_networks, front_ends

from .. import standin
from ..standin.frontend import CuPyFrontEnd
from ..standin.view import CuPyModel
from ..tiers import grid

SQUARE = dtn.network(dtn.TTMatrix(rank=2), (8, 8))


PACKAGES = {"numpy": "numpy", "torch": "torch", "jax": "jax", "equinox": "equinox", "nnx": "flax"}


@pytest.mark.few(1)
@grid(lambda name, number: name in ("numpy", "torch") or number in "03", name=list(PACKAGES), number=range(6))
def test_the_front_ends_keep_the_laws(name, number):
    """JAX compiles for every network, so every run gives it only a padded brick wall and a MERA with copies."""
    pytest.importorskip(PACKAGES[name])
    front_end = front_ends()[name]
    assert front_end.name == name
    check_front_end(front_end, [default_networks()[number]])


def test_all_default_networks_are_tried():
    assert len(default_networks()) == 6


@pytest.mark.parametrize("name", dtn.topologies.topology_names())
def test_a_foreign_library_keeps_the_laws(name):
    check_front_end(CuPyFrontEnd(), [dtn.network(name, (10, 12))])


def test_a_foreign_library_with_the_default_networks_and_another_seed():
    check_front_end(CuPyFrontEnd(), seed=7)


@pytest.mark.parametrize("name", ["BrickWall", "CP", "TTMatrix"])
def test_all_ways_to_decode_in_a_foreign_library(name):
    net = dtn.network(name, (10, 12))
    params = net.init(dtype="float64")
    foreign = {name: standin.asarray(core) for name, core in params.items()}
    weight = net.materialize(params)
    np.testing.assert_allclose(to_numpy(net.materialize(foreign, rows=slice(3, 8))), weight[3:8])
    rows = np.array([[9, 0, 9]])
    np.testing.assert_allclose(to_numpy(net.gather(foreign, standin.asarray(rows))), weight[rows])
    blocks = [to_numpy(block) for _, block in net.iter_blocks(foreign, 2**14)]
    np.testing.assert_allclose(np.concatenate(blocks), weight)


@pytest.mark.parametrize("name", ["BrickWall", "TTMatrix"])
def test_half_precision_in_a_foreign_library(name):
    net = dtn.network(name, (10, 12))
    params = net.init(dtype="float16")
    found = to_raw(net.materialize({name: standin.asarray(core) for name, core in params.items()}))
    assert found.dtype == "float16"
    np.testing.assert_array_equal(found, net.materialize(params))


def test_the_stand_in_does_not_mix_with_numpy():
    array = standin.asarray(np.ones(3))
    for mixed in (lambda: np.asarray(array), lambda: array + np.ones(3), lambda: np.ones(3) * array):
        with pytest.raises(TypeError):
            mixed()


def test_a_front_end_without_its_library_is_left_out(monkeypatch, torch, jax):
    import deeptn_jax

    monkeypatch.setitem(sys.modules, "deeptn_jax.equinox", None)
    monkeypatch.delattr(deeptn_jax, "equinox", raising=False)
    assert {"torch", "jax", "nnx"} <= front_ends().keys()
    assert "equinox" not in front_ends()


class RoundedArrays(CuPyFrontEnd):
    library = "rounded"


autoray.register_function("rounded", "asarray", lambda x: standin.asarray(x.astype("float16").astype(x.dtype)))


class Altered(CuPyFrontEnd):
    """Its view misreports the layer."""

    changes: ClassVar[dict[str, Any]]

    @property
    def view(self):
        changes = self.changes

        class View(CuPyModel):
            def weights(self):
                return [dataclasses.replace(weight, **changes) for weight in super().weights()]

        return View


class OtherKind(Altered):
    changes: ClassVar = {"kind": "conv1d"}


class OtherNetwork(Altered):
    changes: ClassVar = {"network": dtn.network(dtn.TTMatrix(rank=2), (8, 9))}


class NotGenerated(Altered):
    changes: ClassVar = {"network": None}


class MoreThanTheLayer(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return {**super().linear(network, bias, seed), "counter": standin.zeros(1)}


class Flat(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        model = super().linear(network, bias, seed)
        model["layer"].cores = {name: core.reshape(-1) for name, core in model["layer"].cores.items()}
        return model


class BiasUnasked(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, True, seed)


class BiasTwice(CuPyFrontEnd):
    def call(self, model, x):
        y, bias = super().call(model, x), model["layer"].bias
        return y if bias is None else y + bias


class Shifted(CuPyFrontEnd):
    def call(self, model, x):
        return super().call(model, x) + 0.01


class Transposed(CuPyFrontEnd):
    def call(self, model, x):
        return standin.matmul(x, model["layer"].network.materialize(model["layer"].cores))


class NotANumber(CuPyFrontEnd):
    def call(self, model, x):
        return super().call(model, x) * float("nan")


class WithGradients(CuPyFrontEnd):
    """Its gradients are difference quotients, entry by entry."""

    def gradient(self, model, x, dy):
        layer = model["layer"]
        bias = None if layer.bias is None else layer.bias.astype("float64")

        def loss(cores):
            made = type(layer)(layer.network, cores, bias)
            return float((to_raw(made(x.astype("float64"))) * to_raw(dy)).sum())

        found, wide = {}, {name: core.astype("float64") for name, core in layer.cores.items()}
        for name, core in layer.cores.items():
            values = to_numpy(core)
            slopes = np.zeros(values.shape)
            for place in np.ndindex(values.shape):
                moved = [values.copy(), values.copy()]
                moved[0][place] -= 1e-6
                moved[1][place] += 1e-6
                low, high = (loss(wide | {name: standin.asarray(array)}) for array in moved)
                slopes[place] = (high - low) / 2e-6
            found[name] = standin.asarray(slopes)
        return found


class GradientTwice(WithGradients):
    def gradient(self, model, x, dy):
        return {name: slopes * 2 for name, slopes in super().gradient(model, x, dy).items()}


class OneGradientMissing(WithGradients):
    def gradient(self, model, x, dy):
        found = super().gradient(model, x, dy)
        name = next(iter(found))
        return found | {name: found[name] * 0}


class DrawnLarge(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        model = super().linear(network, bias, seed)
        model["layer"].cores = {name: standin.asarray(core) for name, core in network.init(seed, std=1.0).items()}
        return model


class OneSeed(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, bias, 0)


class NoSeed(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, bias, int(np.random.default_rng().integers(2**62)))


class Writing(CuPyFrontEnd):
    """Its view writes other values than it is given."""

    def written(self, name, array):
        raise NotImplementedError

    @property
    def view(self):
        written = self.written

        class View(CuPyModel):
            def write(self, arrays):
                super().write({name: written(name, array) for name, array in arrays.items()})

        return View


class LossyWrite(Writing):
    def written(self, name, array):
        return array.astype("float16").astype("float32")


class HalfWrite(Writing):
    def written(self, name, array):
        return array.astype("float16")


class BiasForgotten(Writing):
    def written(self, name, array):
        return array * 0 if name.endswith("bias") else array


class Fixed(CuPyFrontEnd):
    """It computes with the cores it drew at first, whatever is written later."""

    def linear(self, network, bias, seed):
        model = super().linear(network, bias, seed)
        vars(model["layer"])["drawn"] = dict(model["layer"].cores)
        return model

    def call(self, model, x):
        layer = model["layer"]
        return super().call({"layer": type(layer)(layer.network, vars(layer)["drawn"], layer.bias)}, x)


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (RoundedArrays, "arrays", "'x' has different entries"),
        (OtherKind, "cores", "'conv1d' instead of 'linear'"),
        (OtherNetwork, "cores", "the view has"),
        (NotGenerated, "cores", "generated layers .. instead of"),
        (MoreThanTheLayer, "cores", "'counter'. in addition to"),
        (Flat, "cores", "instead of"),
        (BiasUnasked, "cores", "instead of one of shape None"),
        (Shifted, "output", "differs by"),
        (Transposed, "output", "differs by"),
        (NotANumber, "output", "differs by nan"),
        (GradientTwice, "gradient", "derivative"),
        (OneGradientMissing, "gradient", "derivative 0 along core"),
        (DrawnLarge, "init", "root mean square 1 instead of 0.5"),
        (OneSeed, "seed", "the same cores from different seeds"),
        (NoSeed, "seed", "different cores from the same seed"),
        (LossyWrite, "load", "has different entries"),
        (HalfWrite, "load", "float16"),
        (Fixed, "load", "differs by"),
        (BiasTwice, "file", "differs by"),
        (BiasForgotten, "file", "'bias' has different entries"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_front_end_is_caught(broken, law, message):
    with pytest.raises(AssertionError, match=f"law '{law}' of the front-end .*TTMatrix.*{message}"):
        check_front_end(broken(), [SQUARE])


def test_gradients_are_looked_at():
    check_front_end(WithGradients(), [SQUARE])


def test_every_law_is_broken_above():
    marks = test_a_broken_front_end_is_caught.pytestmark  # type: ignore[attr-defined]
    assert {law for _, law, _ in marks[0].args[1]} == set(LAWS)


def test_an_error_of_the_front_end_says_where():
    class Broken(CuPyFrontEnd):
        def call(self, model, x):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        check_front_end(Broken(), [SQUARE])
    assert "law 'output' of the front-end 'cupy'" in caught.value.__notes__[0]
