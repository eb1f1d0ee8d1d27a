"""Test the laws of deeptn.testing on networks of every family drawn by Hypothesis, and on one of everything."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import hypothesis
import numpy as np
import pytest

import deeptn as dtn
from deeptn.spec import Leg
from deeptn.testing import check_laws, families, networks
from deeptn.topologies import registry

from ..market import NETWORKS, few_nets, nets


def run(family: str, libraries: tuple[str, ...], examples: int) -> None:
    @hypothesis.settings(
        max_examples=examples,
        suppress_health_check=[*hypothesis.HealthCheck],  # type: ignore[arg-type]
    )
    @hypothesis.given(networks(family))
    def law(net: dtn.Network) -> None:
        check_laws(net, libraries=libraries)

    law()


@pytest.mark.few(1)
@pytest.mark.parametrize("family", families())
def test_numpy(family):
    run(family, ("numpy",), 10)


@pytest.mark.few(6)
@pytest.mark.parametrize("family", families())
def test_torch(family, torch):
    run(family, ("torch",), 5)


@pytest.mark.slow
@pytest.mark.parametrize(("library", "examples"), [("numpy", 500), ("torch", 25), ("jax", 25)])
@pytest.mark.parametrize("family", families())
def test_thorough(family, library, examples):
    pytest.importorskip(library)
    run(family, (library,), examples)


@pytest.mark.few(39)
@nets
def test_one_of_everything(net):
    check_laws(net)


@pytest.mark.few(2)
@few_nets
def test_one_of_everything_in_other_libraries(net, torch, jax):
    check_laws(net, libraries=("torch", "jax"))


@dataclass(frozen=True, kw_only=True)
class Wrong(dtn.Topology):
    """A topology that builds another network every second time."""

    rank: int = 1
    size_field: ClassVar[str] = "rank"
    calls: ClassVar[list[int]] = []

    def build(self, legs: tuple[Leg, ...]) -> dtn.NetworkSpec:
        self.calls.append(1)
        return dtn.TensorTrain(rank=self.rank + len(self.calls) % 2).build(legs)


def test_a_broken_law_is_named(monkeypatch):
    net = NETWORKS["train"]
    monkeypatch.setattr(dtn.Network, "apply", lambda self, params, x: 2 * x @ self.materialize(params).T)
    with pytest.raises(AssertionError, match=r"law 'apply' of Network\(TensorTrain.*differs by 1.0e\+00"):
        check_laws(net)
    monkeypatch.undo()
    monkeypatch.setattr(dtn.Network, "materialize", lambda self, params: np.zeros(self.shape))
    with pytest.raises(AssertionError, match="law 'einsum'"):
        check_laws(net)


def test_a_topology_that_changes_is_found(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", copy.deepcopy(registry._REGISTRY))
    dtn.register_topology(Wrong)
    with pytest.raises(AssertionError, match=r"law 'json'.*another network the second time"):
        check_laws(Wrong())
