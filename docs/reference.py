"""Write the pages of the API reference from what the packages export; `conf.py` calls it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

#: Packages with a page each. A name exported by several packages is on the page of the first.
PACKAGES = (
    "deeptn",
    "deeptn.spec",
    "deeptn.topologies",
    "deeptn.fitting",
    "deeptn.joint",
    "deeptn.recipe",
    "deeptn.analysis",
    "deeptn.engine",
    "deeptn.arrays",
    "deeptn.files",
    "deeptn.models",
    "deeptn.planning",
    "deeptn.report",
    "deeptn.testing",
    "deeptn_torch",
    "deeptn_jax",
    "deeptn_jax.equinox",
    "deeptn_jax.nnx",
    "deeptn_demo.data",
)

HEAD = """# API reference

Every public name, package by package. The [design](../design.md) explains how the packages depend on each other.

```{toctree}
:maxdepth: 1

PAGES
```
"""

SECTION = """## {title}

```{{eval-rst}}
.. currentmodule:: {package}

.. autosummary::
   :toctree: generated

   {names}
```
"""


def write(folder: Path) -> None:
    """Write the list of packages, and a page for each."""
    folder.mkdir(exist_ok=True)
    (folder / "index.md").write_text(HEAD.replace("PAGES", "\n".join(PACKAGES)))
    for package, names in exports():
        (folder / f"{package}.md").write_text(page(package, names))


def exports() -> Iterator[tuple[str, list[str]]]:
    """Yield each package with the names described on its page."""
    seen: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [
            name for name, found in vars(module).items() if getattr(found, "__module__", None) == package
        ]
        names = [name for name in names if not name.startswith("_") and id(getattr(module, name)) not in seen]
        names = [name for name in names if not isinstance(getattr(module, name), ModuleType | str)]
        seen |= {id(getattr(module, name)) for name in names}
        yield package, names


def page(package: str, names: list[str]) -> str:
    """Return the docstring of a package, and tables of its names by kind."""
    module = importlib.import_module(package)
    classes = [name for name in names if inspect.isclass(getattr(module, name))]
    errors = [name for name in classes if issubclass(getattr(module, name), BaseException)]
    functions = [name for name in names if inspect.isroutine(getattr(module, name))]
    kinds = {"Classes": set(classes) - set(errors), "Functions": functions, "Errors": errors}
    parts = [f"# {package}", f"```{{eval-rst}}\n.. automodule:: {package}\n   :no-members:\n```"]
    parts += [
        SECTION.format(title=title, package=package, names="\n   ".join(sorted(found)))
        for title, found in kinds.items()
        if found
    ]
    return "\n\n".join(parts)


def filenames() -> dict[str, str]:
    """Rename files of functions that differ from a class only in case, because some file systems ignore case."""
    full = [f"{package}.{name}" for package, names in exports() for name in names]
    lower = [name.lower() for name in full]
    return {name: f"{name}-function" for name in full if lower.count(name.lower()) > 1 and name.lower() == name}
