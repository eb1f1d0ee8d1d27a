"""Check that a generated layer does whatever the dense layer of the same weight does, with the same result."""

from __future__ import annotations

import pytest

from ..tiers import grid
from .twins import LAYERS, OPERATIONS, check


@pytest.mark.few(1)
@grid(layer=LAYERS, operation=OPERATIONS)
def test_a_generated_layer_does_what_the_dense_one_does(layer, operation):
    check(operation, layer())
