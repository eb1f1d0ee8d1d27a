"""Every front-end keeps the laws, the stand-in for a library that deeptn does not know too; a broken one does not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy, to_raw
from deeptn.testing import LAWS, check_front_end, default_networks, front_ends

from .. import standin
from ..standin.frontend import CuPyFrontEnd
from ..tiers import grid

SQUARE = dtn.network(dtn.TTMatrix(rank=2), (8, 8))


PACKAGES = {"torch": "torch", "jax": "jax", "equinox": "equinox", "nnx": "flax"}


@grid(lambda name, number: name == "torch" or number in "03", name=list(PACKAGES), number=range(6))
def test_the_front_ends_keep_the_laws(name, number):
    """JAX compiles anew for every network: in every run it has a padded brick wall, and a MERA with copies."""
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
    def array(self, x):
        return standin.asarray(x.astype("float16").astype(x.dtype))


class OtherNames(CuPyFrontEnd):
    def cores(self, layer):
        return {name.upper() + "_": core for name, core in layer.cores.items()}


class BiasUnasked(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, True, seed)


class BiasTwice(CuPyFrontEnd):
    def call(self, layer, x):
        y = super().call(layer, x)
        return y if layer.bias is None else y + layer.bias


class Shifted(CuPyFrontEnd):
    def call(self, layer, x):
        return super().call(layer, x) + 0.01


class Transposed(CuPyFrontEnd):
    def call(self, layer, x):
        return standin.matmul(x, layer.network.materialize(layer.cores))


class NotANumber(CuPyFrontEnd):
    def call(self, layer, x):
        return super().call(layer, x) * float("nan")


class WithGradients(CuPyFrontEnd):
    """Difference quotients, entry by entry."""

    def gradient(self, layer, x, dy):
        def loss(cores):
            return float((self.numpy(type(layer)(layer.network, cores, layer.bias)(x)) * self.numpy(dy)).sum())

        found = {}
        for name, core in layer.cores.items():
            values = self.numpy(core).astype("float64")
            slopes = np.zeros(values.shape)
            for place in np.ndindex(values.shape):
                moved = [values.copy(), values.copy()]
                moved[0][place] -= 1e-6
                moved[1][place] += 1e-6
                low, high = (loss(layer.cores | {name: standin.asarray(array)}) for array in moved)
                slopes[place] = (high - low) / 2e-6
            found[name] = standin.asarray(slopes)
        return found


class GradientTwice(WithGradients):
    def gradient(self, layer, x, dy):
        return {
            name: standin.asarray(2 * self.numpy(slopes)) for name, slopes in super().gradient(layer, x, dy).items()
        }


class OneGradientMissing(WithGradients):
    def gradient(self, layer, x, dy):
        found = super().gradient(layer, x, dy)
        name = next(iter(found))
        return found | {name: standin.asarray(0 * self.numpy(found[name]))}


class DrawnLarge(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        layer = super().linear(network, bias, seed)
        layer.cores = {name: standin.asarray(core) for name, core in network.init(seed, std=1.0).items()}
        return layer


class OneSeed(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, bias, 0)


class NoSeed(CuPyFrontEnd):
    def linear(self, network, bias, seed):
        return super().linear(network, bias, int(np.random.default_rng().integers(2**62)))


class LossySave(CuPyFrontEnd):
    dtype = "float32"

    def save(self, layer, path):
        layer = self.load_as(layer)
        super().save(layer, path)

    def load_as(self, layer):
        cores = {name: core.astype("float16").astype(self.dtype) for name, core in layer.cores.items()}
        return type(layer)(layer.network, cores, layer.bias)


class HalfSave(LossySave):
    dtype = "float16"


class ReadAnew(CuPyFrontEnd):
    def load(self, path):
        layer = super().load(path)
        return self.linear(layer.network, layer.bias is not None, 5)


class BiasForgotten(CuPyFrontEnd):
    def load(self, path):
        layer = super().load(path)
        layer.bias = None if layer.bias is None else layer.bias * 0.0
        return layer


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (RoundedArrays, "arrays", "'x' has other entries"),
        (OtherNames, "cores", "instead of"),
        (BiasUnasked, "cores", "instead of one of shape None"),
        (Shifted, "output", "differs by"),
        (Transposed, "output", "differs by"),
        (NotANumber, "output", "differs by nan"),
        (GradientTwice, "gradient", "derivative"),
        (OneGradientMissing, "gradient", "derivative 0 along core"),
        (DrawnLarge, "init", "root mean square 1 instead of 0.5"),
        (OneSeed, "seed", "the same cores from another seed"),
        (NoSeed, "seed", "other cores from the same seed"),
        (LossySave, "save", "has other entries"),
        (HalfSave, "save", "float16"),
        (ReadAnew, "load", "has other entries"),
        (BiasTwice, "file", "differs by"),
        (BiasForgotten, "file", "'bias' has other entries"),
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
        def call(self, layer, x):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        check_front_end(Broken(), [SQUARE])
    assert "law 'output' of the front-end 'cupy'" in caught.value.__notes__[0]
