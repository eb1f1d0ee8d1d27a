from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deeptn as dtn
from deeptn.spec import balanced_factors, pad_axes, prime_factors
from deeptn.spec.layout import padded_factors


@given(st.integers(1, 10_000), st.integers(1, 6))
def test_factors_multiply_to_the_number(n, count):
    assert math.prod(prime_factors(n)) == n
    assert math.prod(balanced_factors(n, count)) == n
    assert len(balanced_factors(n, count)) <= count


def test_balanced_factors_are_near_the_wish():
    assert dtn.Layout.balanced((4096, 4096)).factors == ((8,) * 4,) * 2
    assert dtn.Layout.balanced((7, 1)).factors == ((7,), ())
    assert dtn.Layout.balanced((84, 120), even=True).factors == ((12, 7), (12, 10))


LAYOUTS = [
    dtn.Layout((6, 20)),
    dtn.Layout((6, 20), order="interleaved"),
    dtn.Layout((6, 4), order=(3, 1, 0, 2)),
    dtn.Layout.padded((5, 7)),
    dtn.Layout.padded((5, 7), 3, order="interleaved"),
    dtn.Layout((4, 3, 2, 2), order="interleaved"),
    dtn.Layout((1, 6)),
    dtn.Layout((12,), ((3, 1, 4),)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_legs_and_back(layout):
    weight = np.random.default_rng(0).standard_normal(layout.shape)
    tensor = layout.to_legs(weight)
    assert tensor.shape == layout.leg_sizes
    assert math.prod(tensor.shape) == math.prod(layout.padded_shape)
    assert np.array_equal(layout.from_legs(tensor), weight)
    assert np.isclose(np.linalg.norm(tensor), np.linalg.norm(weight))


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_legs_and_back_in_torch(layout, torch):
    weight = torch.arange(math.prod(layout.shape)).reshape(layout.shape)
    assert torch.equal(layout.from_legs(layout.to_legs(weight)), weight)


def test_most_significant_leg_first():
    layout = dtn.Layout((6, 4), ((2, 3), (2, 2)), order="interleaved")
    tensor = layout.to_legs(np.arange(24).reshape(6, 4))
    assert [leg.name for leg in layout.legs] == ["a0_0", "a1_0", "a0_1", "a1_1"]
    assert tensor[1, 0, 2, 1] == 4 * (1 * 3 + 2) + (0 * 2 + 1)


def test_interleaved_with_unequal_numbers_of_legs():
    assert [leg.name for leg in dtn.Layout((2, 8), order="interleaved").legs] == ["a0_0", "a1_0", "a1_1", "a1_2"]


def test_pad_axes_leaves_leading_axes_alone():
    padded = pad_axes(np.ones((2, 3, 5)), (4, 5))
    assert padded.shape == (2, 4, 5)
    assert padded.sum() == 30


@pytest.mark.parametrize(
    ("shape", "sizes", "factors"),
    [
        ((20, 6), (4, 5, 6), ((4, 5), (6,))),
        ((2, 1), (2, 1), ((2,), (1,))),
        ((1, 6), (6,), ((), (6,))),
        ((1, 6), (1, 6), ((1,), (6,))),
        ((2, 3), (2, 1, 3), ((2,), (1, 3))),
    ],
)
def test_grouped(shape, sizes, factors):
    assert dtn.Layout.grouped(shape, sizes).factors == factors


def test_a_layout_is_hashable_and_survives_json():
    for layout in LAYOUTS:
        assert dtn.Layout.from_dict(layout.to_dict()) == layout
        assert hash(dtn.Layout.from_dict(layout.to_dict())) == hash(layout)


@pytest.mark.parametrize("family", ["TTMatrix", "CP", "Kronecker"])
@pytest.mark.parametrize("shape", [(127, 131), (50_257, 768), (97, 400)])
def test_axes_with_a_large_prime_are_padded_by_default(family, shape):
    net = dtn.network(family, shape)
    order, even = ("interleaved", True) if family in ("TTMatrix", "Kronecker") else ("rows", False)
    exact = dtn.network(family, shape, dtn.Layout.balanced(shape, order=order, even=even))
    assert net.num_params < 0.6 * exact.num_params
    assert max(net.layout.leg_sizes) <= 16
    assert math.prod(net.layout.padded_shape) < 1.25 * math.prod(shape)
    assert net.materialize(net.init()).shape == shape


@pytest.mark.parametrize("shape", [(120, 400), (4096, 4096), (84, 120), (13, 17), (512, 512, 3, 3)])
def test_other_axes_are_split_exactly_by_default(shape):
    for pad in (False, True):
        assert not dtn.Layout.balanced(shape, pad=pad).is_padded


def test_padded_factors_waste_little():
    for n in range(17, 3000, 37):
        for count in range(1, 5):
            found = padded_factors(n, count, 8)
            assert len(found) == count
            assert n <= math.prod(found)
            assert math.prod(found) < 1.25 * n or max(found) <= 4
    assert math.prod(padded_factors(10**9 + 7, 10, 8)) < 1.01 * 10**9
