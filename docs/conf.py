"""The documentation site: ``make docs`` builds it into docs/_build/html without warnings."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import ssdnorm

project = "ssdnorm"
author = "The ssdnorm developers"
copyright = "2026, The ssdnorm developers"
version = release = ssdnorm.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape", "Sources"]

# The names that signatures and docstrings use, with their pages, so that a build needs no network.
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable/", ("inventories/torch.txt", None)),
    "torchvision": ("https://docs.pytorch.org/vision/stable/", ("inventories/torchvision.txt", None)),
    "python": ("https://docs.python.org/3/", ("inventories/python.txt", None)),
}

linkcheck_timeout = 15
linkcheck_anchors = False

html_math_renderer = "mathml"  # no script from another site
html_theme = "furo"
html_title = "ssdnorm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "native"


def list_sources(app, what, name, obj, options, lines):
    """Turn the lines of a docstring's ``Sources`` into a list, an item a line."""
    inside = False
    for i, line in enumerate(lines):
        if line.strip() == "Sources:":
            inside = True
        elif inside and line and not line.startswith("    "):
            inside = False
        elif inside and line.startswith("    ") and line[4] != " ":
            lines[i] = f"    * {line[4:]}"
        elif inside and line.startswith("     "):
            lines[i] = f"      {line.strip()}"


def title_tables(app, docname, source):
    """Give the tables that comparisons write a title; the pages of their results link to them."""
    if docname.endswith("/table"):
        source[0] = f"---\norphan: true\n---\n\n# Table\n\n{source[0]}"


def mathml(node, **options):
    return tex2mathml(re.sub(r"\\[bB]igg?[lr]?(?![a-z])", "", node.astext()), **options)  # it sizes fences itself


def inline_math(self, node):
    self.body.append(mathml(node))
    raise nodes.SkipNode


def display_math(self, node):
    self.body.append(mathml(node, as_block=True))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("source-read", title_tables)
    app.connect("autodoc-process-docstring", list_sources, priority=100)  # before napoleon
