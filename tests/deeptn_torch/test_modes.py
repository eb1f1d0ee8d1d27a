"""Test which way layers go: through the decoded weight, or through the network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deeptn_torch import TNEmbedding, TNLinear
from deeptn_torch.layers import base, cache

import deeptn as dtn
from deeptn.network import decode

TRAIN = dtn.TTMatrix(rank=2)
INPUTS = {"linear": torch.ones(3, 20), "embedding": torch.tensor([3, 4, 5])}


def layer_of(name: str, family: dtn.Topology, mode: Any) -> TNLinear | TNEmbedding:
    return TNLinear(20, 12, family, mode=mode) if name == "linear" else TNEmbedding(30, 8, family, mode=mode)


def decodes(layer: Any, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a call decodes the weight."""
    calls = []
    monkeypatch.setattr(cache, "decode", lambda *args: calls.append(1) or decode(*args))
    layer(x)
    return bool(calls)


@pytest.mark.parametrize("name", INPUTS)
def test_the_mode_decides(name, monkeypatch):
    for mode, expected in (("materialize", True), ("apply", False)):
        assert decodes(layer_of(name, TRAIN, mode), INPUTS[name], monkeypatch) == expected
    assert decodes(layer_of(name, dtn.BrickWall(layers=2), "apply"), INPUTS[name], monkeypatch)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("faster", [True, False])
def test_the_prediction_decides_if_the_mode_is_auto(name, faster, monkeypatch):
    layer, asked = layer_of(name, TRAIN, "auto"), []
    monkeypatch.setattr(base, "is_faster", lambda *args: asked.append(args) or faster)
    for _ in range(2):  # the answer is kept, for every power of two
        assert decodes(layer, INPUTS[name], monkeypatch) == (not faster)
    assert asked == [(layer.network, "apply" if name == "linear" else "gather", 4, "torch")]


@pytest.mark.parametrize("name", INPUTS)
def test_without_gradients_the_weight_is_decoded_once(name, monkeypatch):
    monkeypatch.setattr(base, "is_faster", lambda *args: pytest.fail("no prediction is needed"))
    frozen = layer_of(name, TRAIN, "auto").requires_grad_(False)
    assert [decodes(frozen, INPUTS[name], monkeypatch) for _ in range(3)] == [True, False, False]
    with torch.no_grad():
        layer = layer_of(name, TRAIN, "auto")
        assert [decodes(layer, INPUTS[name], monkeypatch) for _ in range(3)] == [True, False, False]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("mode", ["materialize", "apply"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore:Dynamo:UserWarning")
def test_cores_of_two_dtypes_are_refused(name, mode, compiled):
    layer = layer_of(name, dtn.LowRank(rank=2), mode)
    core = layer.cores[list(layer.network.spec.param_shapes)[1]]
    core.data = core.data.double()
    call = torch.compile(layer, backend="eager") if compiled else layer
    with pytest.raises(dtn.SpecError, match="float64"):
        call(INPUTS[name])
