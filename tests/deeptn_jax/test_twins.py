"""Check that a generated layer does whatever the dense layer of the same weight does, with the same result."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..tiers import grid
from .twins import LAYERS, OPERATIONS, outcome


@grid(layer=LAYERS, operation=OPERATIONS)
def test_a_generated_layer_does_what_the_dense_one_does(layer, operation):
    case = layer()
    twin = case.twin
    if outcome(operation, twin) != "works":
        assert outcome(operation, case) != "works"
        return
    found, wanted = operation(case), operation(twin)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        equal(one, other)


def equal(found: Any, wanted: Any) -> None:
    if not hasattr(wanted, "dtype"):
        assert found == wanted
        return
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    tolerance = 3e-2 if found.dtype.itemsize == 2 else 1e-4
    kind = "complex128" if np.iscomplexobj(wanted) else "float64"
    assert np.allclose(
        np.asarray(found, kind), np.asarray(wanted, kind), rtol=tolerance, atol=tolerance, equal_nan=True
    )
