"""Sphinx configuration."""

import importlib.metadata
import inspect
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.inspect import stringify_signature

sys.path.insert(0, str(Path(__file__).parent))

import gallery
import reference

reference.write(Path(__file__).parent / "api")  # before Sphinx lists the pages

project = "deeptn"
author = "The deeptn developers"
copyright = "2026, " + author
release = importlib.metadata.version("deeptn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_parser",
    "numpydoc",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"deeptn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
suppress_warnings = ["ref.python"]  # "Tensor of shape (N,)" is prose, not a reference
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autosummary_filename_map = reference.filenames()
default_role = "code"
highlight_language = "none"  # sketches in docstrings; examples are recognized by their prompt
nitpicky = False


def formula(self, node: nodes.Node) -> None:
    """Write a formula as MathML, which browsers show without an external script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def signature(app, what, name, found, options, text, returns):
    """Show the arguments of a class's `__init__`, or none if nobody calls it (protocols and abstract classes).

    Sphinx prefers `Topology.__new__` and the metaclass of NNX modules, which take any arguments.
    """
    if what != "class" or not (text or "").startswith(("(*values", "(*args")):
        return None
    if inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        return "", ""
    arguments = inspect.signature(found.__init__)
    arguments = arguments.replace(parameters=list(arguments.parameters.values())[1:])
    return stringify_signature(arguments, show_annotation=False, show_return_annotation=False), ""


def setup(app):
    """Register how formulas and signatures are shown, and write the gallery before its page is read."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-signature", signature)
    app.connect("builder-inited", lambda app: gallery.write(Path(app.srcdir)))
