"""Sphinx configuration."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import gallery

project = "deeptn"
author = "The deeptn developers"
copyright = "2026, " + author
release = importlib.metadata.version("deeptn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_parser",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"deeptn {release}"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # "Tensor of shape (N,)" is prose, not a reference
napoleon_preprocess_types = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"
nitpicky = False


def setup(app):
    """Write the pages that are made from the code."""
    app.connect("builder-inited", lambda app: gallery.write(Path(app.srcdir)))
