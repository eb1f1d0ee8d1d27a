"""Check that a family outside deeptn, registered the way a user would, works everywhere."""

from __future__ import annotations

import copy
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import deeptn_jax
import deeptn_torch
import equinox
import hypothesis
import jax
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as dtx
from deeptn_jax import nnx as dtnnx
from flax import nnx

import deeptn as dtn
from deeptn.arrays import to_numpy
from deeptn.testing import check_laws, families, networks
from deeptn.topologies import registry

from ..conftest import close

ROOT = Path(__file__).parents[2]
HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar\n\nimport deeptn as dtn\n\n\n"
FAMILY = (ROOT / "docs/howto/skip_wall.py").read_text().partition("# [topology]\n")[2].partition("# [/topology]")[0]
WEIGHT = np.random.default_rng(0).standard_normal((12, 10)).astype("float32")


@pytest.fixture(scope="module")
def skip_wall(tmp_path_factory) -> Any:
    path = tmp_path_factory.mktemp("mine") / "walls.py"
    path.write_text(HEAD + FAMILY)
    return runpy.run_path(str(path))["SkipWall"]


def test_the_family_takes_forty_lines_and_is_nonlinear(skip_wall):
    assert len((HEAD + FAMILY).strip().splitlines()) <= 40
    net = dtn.network(skip_wall(blocks=2), (12, 10))
    assert not net.is_linear
    assert [stage.add for stage in net.spec.stages] == [(), (), (0,), (), (2,), ()]


def test_it_keeps_the_laws(skip_wall):
    check_laws(skip_wall(blocks=2), (12, 10), libraries=("numpy", "torch", "jax"))
    assert "SkipWall" in families()

    @hypothesis.settings(max_examples=10, suppress_health_check=[*hypothesis.HealthCheck])  # type: ignore[arg-type]
    @hypothesis.given(networks("SkipWall"))
    def law(net: dtn.Network) -> None:
        assert isinstance(net.topology, skip_wall)
        check_laws(net)

    law()


@pytest.mark.slow
def test_the_command_line_lists_and_draws_it(tmp_path):
    """Imitate an installed package: a module, and an entry point in its metadata."""
    (tmp_path / "walls.py").write_text(HEAD + FAMILY)
    (tmp_path / "walls-1.0.dist-info").mkdir()
    (tmp_path / "walls-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: walls\nVersion: 1.0\n")
    entry = "[deeptn.topologies]\nSkipWall = walls:SkipWall\nBroken = walls:Nothing\n"
    (tmp_path / "walls-1.0.dist-info" / "entry_points.txt").write_text(entry)

    def deeptn(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        call = [sys.executable, "-c", "from deeptn.cli import main; raise SystemExit(main())", *arguments]
        return subprocess.run(
            call, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "COLUMNS": "80"}
        )

    listed = deeptn("draw", "--help")
    assert "SkipWall" in re.split(r"[,\s]+", listed.stdout)
    assert "--blocks VALUE" in deeptn("draw", "skipwall", "--help").stdout
    said = "the topology 'Broken' (walls:Nothing) of the package 'walls' cannot be imported: module 'walls' has no"
    assert said in listed.stderr
    drawn = deeptn("draw", "skipwall", "--blocks", "2", "--shape", "12,10", "-o", "wall.svg")
    assert drawn.stdout.startswith("Network(SkipWall(blocks=2), shape=(12, 10)"), drawn.stderr
    picture = (tmp_path / "wall.svg").read_text()
    assert "<svg" in picture
    unknown = deeptn("draw", "skipwal")
    assert unknown.returncode == 1
    assert "did you mean 'SkipWall'?" in unknown.stderr


def test_it_is_saved_and_loaded(skip_wall, library, tmp_path):
    net = dtn.network(skip_wall(blocks=2), (12, 10))
    params = net.init(seed=1, like=library)
    dtn.save(tmp_path / "wall.safetensors", net, params)
    again, read = dtn.load(tmp_path / "wall.safetensors", like=library)
    assert (again, again.topology) == (net, skip_wall(blocks=2))
    assert {type(array) for array in read.values()} == {type(array) for array in params.values()}
    assert all(np.array_equal(to_numpy(read[name]), to_numpy(params[name])) for name in params)


def test_the_budget_finds_it(skip_wall):
    net = dtn.at_budget("SkipWall", (12, 10), 400)
    assert (net.topology, net.num_params) == (skip_wall(blocks=2), 320)
    rows = dtn.compare(WEIGHT, ["SkipWall"], 400, fit=lambda net, weight: net.init(like=weight)).rows
    assert [(row.label, row.params) for row in rows] == [("SkipWall(blocks=2)", 320)]


@pytest.mark.slow
@pytest.mark.parametrize("front_end", [deeptn_torch, deeptn_jax], ids=["torch", "jax"])
def test_it_is_fitted_by_gradient(skip_wall, front_end):
    net = dtn.network(skip_wall(blocks=1), WEIGHT.shape)
    weight = torch.from_numpy(WEIGHT) if front_end is deeptn_torch else jax.numpy.asarray(WEIGHT)
    found = front_end.fit(net, weight, how=dtn.fitting.Fit(steps=60))
    assert found.error < 0.9 * found.history[0]
    decoded = to_numpy(net.materialize(found.params))
    assert np.linalg.norm(decoded - WEIGHT) / np.linalg.norm(WEIGHT) == pytest.approx(found.error, rel=1e-3)


def test_it_grows(skip_wall, library):
    net = dtn.network(skip_wall(blocks=1), (12, 10))
    params = net.init(seed=1, like=library)
    larger = dtn.fitting.grow(net, params, 3)
    assert larger.net.topology == skip_wall(blocks=3)
    assert larger.error < 1e-6
    assert close(larger.net.materialize(larger.params), net.materialize(params), 1e-5)
    deeper = dtn.fitting.deepen(net, net.init(seed=1, dtype="float64"))
    assert (deeper.net.topology, deeper.error < 1e-12) == (skip_wall(blocks=2), True)
    in_a_sum = dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), skip_wall(blocks=1))), (12, 10))
    assert dtn.fitting.grow(in_a_sum, in_a_sum.init(seed=1, dtype="float64"), 2).error < 1e-12


@pytest.mark.slow
def test_models_are_compressed_by_its_name(skip_wall, tmp_path):
    torch_model = torch.nn.Sequential(torch.nn.Linear(10, 12), torch.nn.Linear(12, 2))
    keys = jax.random.split(jax.random.key(0))
    equinox_model = equinox.nn.Sequential(
        [equinox.nn.Linear(10, 12, key=keys[0]), equinox.nn.Linear(12, 2, key=keys[1])]
    )
    nnx_model = nnx.Sequential(nnx.Linear(10, 12, rngs=nnx.Rngs(0)), nnx.Linear(12, 2, rngs=nnx.Rngs(1)))
    cases: list[tuple[Any, Any, str]] = [
        (deeptn_torch, torch_model, "0"),
        (dtx, equinox_model, "layers.0"),
        (dtnnx, nnx_model, "layers.0"),
    ]
    for front_end, model, name in cases:
        _, report = front_end.compress(model, {name: "SkipWall"}, fit=dtn.fitting.Fit(steps=2))
        assert [(row.name, row.topology) for row in report.layers] == [(name, "SkipWall(blocks=1)")]


@dataclass(frozen=True, kw_only=True)
class Outer(dtn.Topology):
    """Two matrices whose names contain their rank, so that growth renames them; the closed form is an SVD."""

    rank: int = 1
    size_field: ClassVar[str] = "rank"

    def default_layout(self, shape: Sequence[int]) -> dtn.Layout:
        return dtn.Layout.single(shape)

    def build(self, legs: tuple[dtn.spec.Leg, ...]) -> dtn.NetworkSpec:
        row, column = (leg.name for leg in legs)
        nodes = dtn.Node(f"U{self.rank}", (row, "b"), ("b",)), dtn.Node(f"V{self.rank}", ("b", column))
        return dtn.NetworkSpec(legs, (dtn.Stage(nodes, (row, column)),), (("b", self.rank),))

    def closed_form(self, spec: dtn.NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray]:
        u, s, v = np.linalg.svd(tensor)
        return {f"U{self.rank}": u[:, : self.rank] * s[: self.rank], f"V{self.rank}": v[: self.rank]}

    @property
    def closed_form_suffices(self) -> bool:
        return True

    def grown(self, size, spec, params, noise, generator):
        return super().grown(size, spec, {f"{key[0]}{size}": p for key, p in params.items()}, noise, generator)


def test_a_family_may_bring_its_closed_form_and_its_growth(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", copy.deepcopy(registry._REGISTRY))
    dtn.register_topology(Outer)
    check_laws(Outer(rank=2), (6, 5))
    best = dtn.decompose(WEIGHT, dtn.LowRank(rank=3)).error
    net, params, error = dtn.decompose(WEIGHT, Outer(rank=3))
    assert error == pytest.approx(best, rel=1e-5)
    larger = dtn.fitting.grow(net, params, 5)
    assert larger.net.spec.param_shapes == {"U5": (12, 5), "V5": (5, 10)}
    assert larger.error < 1e-6
    rows = {row.label: row.error for row in dtn.compare(WEIGHT, budget=66).rows}
    assert rows["Outer(rank=3)"] == pytest.approx(best, rel=1e-5)
    assert [row.label for row in dtn.analysis.compressibility(WEIGHT, (10,)).rows if "Outer" in row.label]

    def forgets(self, size, spec, params, noise, generator):
        return dtn.Topology.grown(self, size, spec, params, noise, generator)

    monkeypatch.setattr(Outer, "grown", forgets)
    with pytest.raises(dtn.SpecError, match="the larger network has no parameter 'U3', but the smaller"):
        dtn.fitting.grow(net, params, 5)
    monkeypatch.setattr(Outer, "closed_form", lambda self, spec, tensor: {"U2": tensor[:, :2], "V2": tensor[:2]})
    with pytest.raises(
        AssertionError, match=r"law 'closed form' of .*a weight of the family is decomposed with an error"
    ):
        check_laws(Outer(rank=2), (6, 5))
