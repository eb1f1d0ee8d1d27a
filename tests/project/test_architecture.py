"""Test properties of the code base as a whole."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import deeptn_jax
import deeptn_torch
import pytest

import deeptn as dtn

ROOT = Path(__file__).parents[2]


def loaded_after(code: str) -> set[str]:
    script = f"import sys; {code}; print(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return {name.partition(".")[0] for name in output.split()}


def test_the_core_imports_no_framework():
    modules = loaded_after("import deeptn")
    assert "deeptn" in modules
    heavy = {
        "torch",
        "jax",
        "quimb",
        "tensornetwork",
        "matplotlib",
        "tensorly",
        "sklearn",
        "networkx",
        "numba",
        "jinja2",
    }
    assert not heavy & modules


def test_numpy_work_needs_no_framework():
    code = "import deeptn as d; n = d.network('BrickWall', (8, 8)); n.materialize(n.init())"
    assert not {"torch", "jax"} & loaded_after(code)


def test_the_jax_front_end_needs_no_torch():
    assert "torch" not in loaded_after("import deeptn_jax")


def test_no_import_side_effects_on_numpy_torch_or_jax():
    code = (
        "import numpy, torch; a = (numpy.get_printoptions(), numpy.geterr(), torch.get_default_dtype(), "
        "torch.get_num_threads(), torch.initial_seed()); import deeptn, deeptn_torch; "
        "assert a == (numpy.get_printoptions(), numpy.geterr(), torch.get_default_dtype(), torch.get_num_threads(), "
        "torch.initial_seed())"
    )
    loaded_after(code)


@pytest.mark.parametrize("module", [dtn, deeptn_torch, deeptn_jax], ids=lambda m: m.__name__)
def test_all_names_resolve_and_are_documented(module):
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name
        if not (inspect.isclass(thing) and issubclass(thing, Exception)):
            assert ">>>" in (inspect.getdoc(thing) or ""), f"{name} has no example"


def test_topologies_are_frozen_data_with_defaults():
    for name in dtn.topologies.topology_names():
        cls = getattr(dtn, name, None)
        if cls is None:  # registered by a test or a how-to
            continue
        one = cls()
        assert hash(one) == hash(cls())
        assert cls.size_field in {field.name for field in dataclasses.fields(cls)}
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, cls.size_field, 3)


def test_nobody_imports_through_the_backends_folder():
    for path in ROOT.rglob("*.py"):
        if path != Path(__file__) and ".venv" not in path.parts:
            assert "backends.deeptn" not in path.read_text(), path
    assert not (ROOT / "backends" / "__init__.py").exists()


def packages_of(module: str) -> str:
    """Return the package of a module; a module outside all packages is its own package."""
    parts = module.split(".")
    folder = ROOT if parts[0] == "deeptn" else ROOT / "backends"
    depth = 2 if (folder / parts[0] / (parts[1] if len(parts) > 1 else "") / "__init__.py").exists() else 1
    return ".".join(parts[: max(depth, 2 if parts[0] == "deeptn" else depth)])


def imports():
    """Yield every import of the project's own modules: file, importing package, module, names."""
    for folder in ("deeptn", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT if folder == "deeptn" else ROOT / "backends").with_suffix("")
            here = list(place.parts[:-1]) if place.name == "__init__" else list(place.parts)
            base = here if place.name == "__init__" else here[:-1]
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    up = base[: len(base) - node.level + 1] if node.level else []
                    module = ".".join([*up, *([node.module] if node.module else [])])
                    if module.partition(".")[0].startswith("deeptn"):
                        yield path, packages_of(".".join(here)), module, [alias.name for alias in node.names]


def test_no_package_imports_what_is_private_to_another():
    seen = 0
    for path, here, module, names in imports():
        seen += 1
        if packages_of(module) != here:
            private = [name for name in (*module.split("."), *names) if name.startswith("_") and name[:2] != "__"]
            assert not private, f"{path.relative_to(ROOT)} imports {private} from {module}"
    assert seen > 300


def test_the_table_of_packages_is_that_of_import_linter():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = settings["contracts"][0]["layers"]
    rows = [line for line in (ROOT / "docs" / "design.md").read_text().splitlines() if line.startswith("| `deeptn.")]
    assert [re.findall(r"`([^`]*)`", row.split("|")[1]) for row in rows] == [layer.split(" | ") for layer in layers]
    modules = {
        path.stem for path in (ROOT / "deeptn").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {f"deeptn.{name}" for name in modules - {"__init__", "__main__"}} == {
        name for row in layers for name in row.split(" | ")
    }


def test_only_the_classes_of_array_libraries_tell_these_apart():
    """No other code compares the names of libraries; differences are methods or attributes of these classes."""
    compared = re.compile(
        r"""infer_backend|([=!]=|\bin) \(?["'](numpy|torch|jax)["']|["'](numpy|torch|jax)["'] [=!]="""
    )
    for text in ('if name == "torch":', "infer_backend(x) != library", "if name in ('numpy', 'torch'):"):
        assert compared.search(text)
    for folder in ("deeptn", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent != ROOT / "deeptn" / "arrays":
                assert not compared.search(path.read_text()), path


def test_files_stay_small():
    for folder in ("deeptn", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 450, path


def test_views_are_small_and_have_no_function_in_common():
    """Code that two frameworks have in common is written once, in the core."""
    paths = sorted((ROOT / "backends").rglob("view.py"))
    assert len(paths) == 4  # PyTorch, JAX, and Equinox and NNX on top of JAX
    bodies: dict[str, Path] = {}
    for path in paths:
        text = path.read_text()
        assert len(text.splitlines()) <= 200, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                said = [part for part in node.body if not isinstance(getattr(part, "value", None), ast.Constant)]
                body = "\n".join(map(ast.unparse, said))
                if len(body) > 60:  # short functions that only forward something do not count
                    assert bodies.setdefault(body, path) == path, (path, node.name)


def test_the_wheel_holds_what_it_should(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names if "dist-info" not in name}
    assert packages == {"deeptn", "deeptn_torch", "deeptn_jax", "deeptn_demo"}
    assert "deeptn/report/page.html.j2" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
