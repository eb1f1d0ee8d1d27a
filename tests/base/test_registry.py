"""Test tables of names, and what installed packages add to them."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deeptn as dtn
from deeptn.base.registry import Registry
from deeptn.cli import main
from deeptn.engine import runner
from deeptn.models import fit_arrays, view_of
from deeptn.testing import front_ends


def installed(monkeypatch: pytest.MonkeyPatch, load: Any) -> list[str]:
    """Pretend that a package with one entry point is installed; the returned list grows when groups are searched."""
    asked: list[str] = []
    entry = SimpleNamespace(name="blue", value="colors:blue", load=load)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: asked.append(group) or [entry])
    return asked


def test_names_of_installed_packages(monkeypatch):
    colors: Registry[int] = Registry("color", "some.colors")
    colors.add("Red", 1)
    asked = installed(monkeypatch, lambda: colors.add("Blue", 2))
    assert colors["RED"] == 1
    assert asked == []  # nothing is imported for a name that is known
    assert "blue" in colors
    assert "green" not in colors
    assert colors["BLUE"] == 2
    assert list(colors) == ["Red", "Blue"]
    assert asked == ["some.colors"]  # once


def test_other_threads_wait_for_installed_packages(monkeypatch):
    colors: Registry[int] = Registry("color", "some.colors")

    def slow() -> None:
        time.sleep(0.2)
        assert "blue" not in colors  # what is imported may look names up
        colors.add("Blue", 2)

    installed(monkeypatch, slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(colors.__getitem__, ["blue"] * 4)) == [2] * 4


def test_a_list_of_names_includes_those_of_installed_packages(monkeypatch):
    colors: Registry[int] = Registry("color", "some.colors")
    installed(monkeypatch, lambda: colors.add("Blue", 2))
    assert list(colors) == ["Blue"]


def test_a_package_that_cannot_be_imported(monkeypatch):
    colors: Registry[int] = Registry("color", "some.colors")
    installed(monkeypatch, lambda: 1 / 0)
    with pytest.warns(UserWarning, match=r"the color 'blue' \(colors:blue\) cannot be imported: division by zero"):
        assert "blue" not in colors
    with pytest.raises(dtn.SpecError, match="unknown color 3"):
        colors[3]


def test_the_warning_names_the_package(monkeypatch):
    entry = SimpleNamespace(name="torch", value="walls:run", load=lambda: 1 / 0, dist=SimpleNamespace(name="walls"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: [entry])
    monkeypatch.setattr(runner, "_RUNNERS", {})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    text = r"the runner 'torch' \(walls:run\) of the package 'walls' cannot be imported: division by zero"
    with pytest.warns(UserWarning, match=text):
        assert runner.runner_of("torch") is runner.run_plain
    with pytest.warns(UserWarning, match="the front-end 'torch'"):
        assert front_ends() == {}
    with (
        pytest.warns(UserWarning, match="the view of models 'torch'"),
        pytest.raises(dtn.PlanError, match="expected a"),
    ):
        view_of(3)
    with pytest.warns(UserWarning, match="the fit 'torch'"), pytest.raises(dtn.MissingBackendError):
        fit_arrays(dtn.network("BrickWall", (4, 4)), np.eye(4))


def front_ends_of(monkeypatch: pytest.MonkeyPatch, value: str, load: Any) -> Any:
    entry = SimpleNamespace(name="walls", value=value, load=load)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: [entry])
    return front_ends()


def failing(error: Exception) -> Any:
    def load() -> Any:
        raise error

    return load


def test_missing_libraries_are_skipped_and_broken_packages_are_not(monkeypatch):
    missing = ModuleNotFoundError("No module named 'flax'", name="flax")
    assert front_ends_of(monkeypatch, "deeptn_jax.frontend:NNX", failing(missing)) == {}
    assert front_ends_of(monkeypatch, "deeptn_jax.frontend:NNX", lambda: failing(missing)) == {}  # when it is made
    assert front_ends_of(monkeypatch, "deeptn_jax:NNX", failing(dtn.MissingBackendError("jax", "jax"))) == {}
    for error in (ModuleNotFoundError("no module", name="deeptn_jax.frontend"), ImportError("cannot import name")):
        with pytest.raises(ImportError, match=r"no module|cannot import"):
            front_ends_of(monkeypatch, "deeptn_jax.frontend:NNX", failing(error))
    with pytest.warns(UserWarning, match="the front-end 'walls' .deeptn_walls:NNX. cannot be imported"):
        assert front_ends_of(monkeypatch, "deeptn_walls:NNX", failing(missing)) == {}


def test_a_broken_command_leaves_the_others(monkeypatch, capsys):
    def load() -> Any:
        raise RuntimeError("100% broken")

    entry, known = SimpleNamespace(name="walls", load=load), importlib.metadata.entry_points
    added = {"deeptn.commands": [entry]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*known(group=group), *added.get(group, ())])
    assert main(["list"]) == 0
    assert main(["walls"]) == 1
    assert "the command 'walls' cannot be imported: RuntimeError: 100% broken" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "(not available: 100% broken)" in capsys.readouterr().out


def test_a_name_that_is_taken():
    colors: Registry[Any] = Registry("color")
    colors.add("Red", 1)
    with pytest.raises(dtn.SpecError, match="the color 'red' is already registered"):
        colors.add("red", 2)

    def make() -> Any:
        def red() -> None:
            """Stand for a definition that runs twice."""

        return red

    first, again = make(), make()
    colors.add("Blue", first)
    colors.add("BLUE", again)
    assert colors["blue"] is again
    assert list(colors) == ["Red", "BLUE"]
