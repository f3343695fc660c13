"""Settings of the site that `make docs` builds: docs/, the READMEs and the notebooks as they are,
and a page of docstrings for each package.

Its source is the whole checkout. So a page has the path of its file, and a link that works on GitHub
works in the site: to another page, to a heading, or to a file, which is copied.
"""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "docs" / "README.md"
sys.path.insert(0, str(ROOT))  # tests and analysis, as a checkout has them

project = "Experts at equal compute"
root_doc = "docs/README"
extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc"]
include_patterns = [
    "*.md", "docs/*.md", "results/study/**.md", "analysis/**.md", "analysis/*.ipynb", "src/**.md",
    "build/api/*/*.rst",
]  # fmt: skip
exclude_patterns = [".*", "build/docs", "build/api/*/modules.rst", "tests", "README.md"]

html_theme = "furo"  # light and dark, and phones; fonts are the system's, so nothing is fetched
html_title = project
html_extra_path = ["site"]
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 6
nb_execution_mode = "off"  # the tests execute them (tests/analysis)
nb_execution_cache_path = str(ROOT / "build" / ".jupyter_cache")

apidoc_modules = [
    {"path": f"../{path}", "destination": f"build/api/{Path(path).name}", "exclude_patterns": ["../src/experiments/interchange/template"]}
    for path in ("analysis",)
]
apidoc_module_first = True
apidoc_automodule_options = {"members", "undoc-members", "show-inheritance", "ignore-module-all"}
apidoc_max_depth = 1
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88


class Markdown(SphinxDirective):
    """Text as Markdown, within a page of another form: a docstring's."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_location(), self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


def as_markdown(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings are Markdown, as GitHub and editors show them."""
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in lines), ""]


def add_contents(app: Sphinx, name: str, text: list[str]) -> None:
    """The index gets a sidebar of its own sections, "All of them", and of the pages of docstrings."""
    if name != root_doc:
        return
    text[0] += toctrees(text[0])


def toctrees(index: str) -> str:
    """A table of contents for each subject of the index: its heading, and the pages that its table links."""
    listed = re.split(r"^### (.*)\n", index.partition("## All of them")[2].partition("\n## ")[0], flags=re.MULTILINE)
    parts = []
    for title, table in zip(listed[1::2], listed[2::2], strict=True):
        pages = re.findall(r"^\| \[[^]]*\]\(([^)#]+)\)", table, re.MULTILINE)
        parts.append((title, [f"/{os.path.relpath((INDEX.parent / page).resolve(), ROOT)}" for page in pages]))
    parts.append(("Docstrings", ["/build/api/experiments/experiments", "/build/api/analysis/analysis"]))
    return "".join(
        "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n".format(title, "\n".join(pages)) for title, pages in parts
    )


def setup(app: Sphinx) -> None:
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("source-read", add_contents)
