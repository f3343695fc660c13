"""Settings of the site that `make docs` builds: documents and notebooks as they are, and a page of
docstrings for each package.

Its source is the whole checkout. So a page has the path of its file, and a link that works on
GitHub works in the site: to a page, to a heading, or to a file, which is copied. What is missing
is a warning, and a warning fails.
"""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # analysis, where it isn't installed

project = html_title = "Experts at equal compute"
root_doc = "docs/README"
extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc"]
# fmt: off
include_patterns = [
    "*.md", "docs/*.md", "results/study/**.md", "src/**.md",
    "analysis/**.md", "analysis/*.ipynb", "build/docstrings/*/*.rst",
]
# fmt: on
exclude_patterns = ["build/docstrings/*/modules.rst"]
suppress_warnings = [
    "toc.not_included",  # tests/test_documents.py holds the index to docs/
    "myst.header",  # a docstring may begin with a heading of the second level
    "ref.python",  # two modules may have a class of one name; a signature names it alone
]

html_theme = "furo"  # light, dark and phones, with the system's fonts: nothing is fetched
html_extra_path = ["site/index.html"]
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

highlight_language = "none"  # of blocks that name none: terminals
myst_heading_anchors = 6
nb_execution_mode = "off"  # the tests execute them
nb_execution_cache_path = str(ROOT / "build" / ".jupyter_cache")

toc_object_entries = False  # thousands of names, which each page would go through
apidoc_modules = [
    {"path": f"../{path}", "destination": f"build/docstrings/{Path(path).name}"}
    for path in ("src/experiments", "analysis")
]
apidoc_exclude_patterns = ["../src/experiments/interchange/template"]
apidoc_module_first = True
apidoc_automodule_options = {"members", "ignore-module-all"}  # those that have a docstring
apidoc_max_depth = 1


class Markdown(SphinxDirective):
    """Text as Markdown, within a page of another form."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_location(), self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        for node in document.findall():  # else each docstring is stored with a document of its own
            node.document = self.state.document
        return document.children


def as_markdown(_app, _what, _name, _thing, _options, lines: list[str]) -> None:
    """Docstrings are Markdown, as editors show them."""
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in lines), ""]


def skip_imported(app: Sphinx, what: str, name: str, thing, skip: bool, _options) -> bool | None:
    """A name is documented where it is written, not again in each __init__.py that imports it."""
    own = app.env.current_document.autodoc_module
    return True if what == "module" and getattr(thing, "__module__", own) != own else None


def no_source(_cls, name: str, *_) -> None:
    """Sphinx parses each source in Python for what comments say of attributes: most of its time."""
    raise PycodeError(f"{name}: its source is not read; its docstrings are")


def add_contents(_app: Sphinx, name: str, text: list[str]) -> None:
    """Tables of contents for the index, which are made of it."""
    if name == root_doc:
        text[0] += contents(text[0])


def contents(index: str) -> str:
    """A table of contents for each subject of the index, "All of them": its heading, and the pages
    that its table links; and one of docstrings.
    """
    listed = index.partition("## All of them")[2].partition("\n## ")[0]
    _, *parts = re.split(r"^### (.*)\n", listed, flags=re.MULTILINE)
    subjects = {
        title: [
            f"/{Path(os.path.normpath(f'docs/{page}')).as_posix()}"
            for page in re.findall(r"^\| \[[^]]*\]\(([^)#]+)\)", table, re.MULTILINE)
        ]
        for title, table in zip(parts[::2], parts[1::2], strict=True)
    }
    subjects["Docstrings"] = [f"/build/docstrings/{n}/{n}" for n in ("experiments", "analysis")]
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])
        for title, pages in subjects.items()
    )


def setup(app: Sphinx) -> None:
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("autodoc-skip-member", skip_imported)
    ModuleAnalyzer.for_module = classmethod(no_source)
    app.connect("source-read", add_contents)
