"""Test tables of names, and what installed packages add to them."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest

import deeptn as dtn
from deeptn.base.registry import Registry


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
