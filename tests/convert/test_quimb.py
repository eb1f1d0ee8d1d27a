"""Test networks made by quimb."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quimb.tensor as qtn

import deeptn as dtn
from deeptn.arrays import dtype_of, from_raw

from ..conftest import close


def quimb_networks() -> dict[str, Any]:
    builder: Any = qtn
    cp = [
        builder.Tensor(np.random.default_rng(0).standard_normal((n, 4)), (ix, "r")) for ix, n in zip("abc", (3, 4, 5))
    ]
    return {
        "MPS": builder.MPS_rand_state(8, bond_dim=3, dtype="float64", seed=1),
        "MPS cyclic": builder.MPS_rand_state(6, bond_dim=3, cyclic=True, dtype="float64", seed=1),
        "MPO": builder.MPO_rand(4, bond_dim=3, dtype="float64", seed=1),
        "TTN": builder.TN_rand_tree(9, 3, phys_dim=2, seed=2, dtype="float64"),
        "MERA": builder.MERA.rand(8, max_bond=3, dtype="float64"),
        "PEPS": builder.PEPS.rand(2, 4, 2, seed=3, dtype="float64"),
        "regular 3": builder.TN_rand_reg(10, 3, 2, phys_dim=2, seed=4, dtype="float64"),
        "regular 4": builder.TN_rand_reg(8, 4, 2, phys_dim=2, seed=5, dtype="float64"),
        "hyper": builder.TensorNetwork(cp),
    }


@pytest.mark.parametrize("name", list(quimb_networks()))
def test_networks_that_quimb_makes(name):
    network = quimb_networks()[name]
    output = network.outer_inds() if name != "hyper" else ("a", "b", "c")
    net, params = dtn.from_quimb(network, output=output)
    expected = network.contract(output_inds=output, optimize="greedy", preserve_tensor=True).data
    assert close(net.materialize(params), expected, 1e-10)
    (again,) = dtn.to_quimb(net, params)
    assert again.num_tensors == network.num_tensors
    assert again.contract(output_inds=[leg.name for leg in net.spec.legs], preserve_tensor=True).data.shape == net.shape


def test_the_sizes_are_those_of_quimb():
    pairs = (
        (dtn.TensorTrain(rank=2), qtn.MPS_rand_state(8, bond_dim=2)),
        (dtn.PEPS(rank=3, columns=4), qtn.PEPS.rand(2, 4, 3)),
        (dtn.TensorRing(rank=3), qtn.MPS_rand_state(8, bond_dim=3, cyclic=True)),
    )
    for family, network in pairs:
        assert dtn.network(family, (16, 16)).num_params == sum(t.size for t in network.tensors if t is not None)


def test_quimb_builds_what_deeptn_imports():
    import quimb.tensor as qtn

    peps = qtn.PEPS.rand(3, 3, bond_dim=2, seed=1)
    net, params = dtn.from_quimb(peps, shape=(8, 64))
    assert close(net.materialize(params), peps.to_dense().reshape(8, 64), 1e-10)
    mpo = qtn.MPO_rand(4, bond_dim=3, seed=2)
    output = [*(mpo.upper_inds or ()), *(mpo.lower_inds or ())]
    net, params = dtn.from_quimb(mpo, output=output, shape=(16, 16))
    assert close(net.materialize(params), mpo.to_dense(), 1e-10)
    assert close(net.apply(params, np.eye(16)), mpo.to_dense().T, 1e-10)


def test_names_are_deterministic():
    import quimb.tensor as qtn

    specs = {dtn.from_quimb(qtn.MPS_rand_state(5, 3, seed=1))[0].spec for _ in range(3)}
    assert len(specs) == 1
    assert [node.name for node in specs.pop().nodes] == ["T0", "T1", "T2", "T3", "T4"]


def test_stripped_exponent_is_kept():
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(4, 2, seed=1)
    dense = mps.to_dense().reshape(-1)
    mps.equalize_norms_(1.0)
    net, params = dtn.from_quimb(mps, shape=(16,))
    assert close(net.materialize(params), dense, 1e-12)


@pytest.mark.parametrize("exponent", [-400, -37, 37, 400])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_exponent_is_spread_over_the_tensors(exponent, dtype):
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(20, 2, seed=1)
    dense = mps.to_dense().reshape(-1)
    for tensor in mps.tensors:
        tensor.modify(data=(tensor.data * 10.0 ** (-exponent / 20)).astype(dtype))
    mps.exponent = exponent
    net, params = dtn.from_quimb(mps, shape=(2**20,))
    assert {array.dtype.name for array in params.values()} == {dtype}
    assert close(net.materialize(params), dense, 1e-12 if dtype == "float64" else 1e-5)


def test_exponents_of_other_kinds(torch, jax):
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(4, 2, seed=1, dtype="float32")
    dense = mps.to_dense().reshape(-1)
    for exponent in (np.float64(1.0), torch.tensor(1.0, requires_grad=True), jax.numpy.asarray(1.0)):
        scaled = mps.copy()
        if not isinstance(exponent, np.generic):
            like = "torch" if isinstance(exponent, torch.Tensor) else "jax"
            scaled.apply_to_arrays(lambda array, like=like: from_raw(array, like))
        scaled.exponent = exponent
        net, params = dtn.from_quimb(scaled, shape=(16,))
        assert {dtype_of(array) for array in params.values()} == {"float32"}
        assert close(net.materialize(params), 10.0 * dense, 1e-5)
    mps.exponent = -np.inf  # as quimb strips it from a network of zeros
    net, params = dtn.from_quimb(mps, shape=(16,))
    assert not net.materialize(params).any()


def test_an_exponent_goes_where_there_is_room():
    import quimb.tensor as qtn

    make: Any = qtn.Tensor
    small, large = (make(np.full((2, 2), x, "float32"), inds) for x, inds in ((1e-20, "ax"), (1e20, "xb")))
    tn = qtn.TensorNetwork([small, large])
    tn.exponent = 37.0
    net, params = dtn.from_quimb(tn, "ab")
    assert close(np.log(net.materialize(params)), np.full((2, 2), np.log(2e37)), 1e-5)


def test_integers_are_converted_before_they_are_scaled():
    import quimb.tensor as qtn

    make: Any = qtn.Tensor
    tn = qtn.TensorNetwork([make(np.ones((2, 3), "int64"), "ax"), make(np.ones((3, 2), "bool"), "xb")])
    tn.exponent = 1.0
    net, params = dtn.from_quimb(tn, "ab")
    assert {array.dtype.name for array in params.values()} == {"float64"}
    assert close(net.materialize(params), np.full((2, 2), 30.0), 1e-14)


def test_open_indices_are_checked():
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(4, 2, seed=1)
    with pytest.raises(dtn.SpecError, match="open index 'q' belongs to no tensor"):
        dtn.from_quimb(mps, output=["q"])
    with pytest.raises(dtn.SpecError, match="repeats the index 'k0'"):
        dtn.from_quimb(mps, output=["k0", "k0"])
    with pytest.raises(dtn.SpecError, match="the layout has leg sizes"):
        dtn.from_quimb(mps, layout=dtn.Layout((4, 8)))
    with pytest.raises(dtn.LayoutError, match="do not make up the shape"):
        dtn.from_quimb(mps, shape=(3, 5))
