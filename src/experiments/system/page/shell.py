"""Frame of a page: head, contents and sections around what its maker has drawn.

Its Content-Security-Policy allows no address but data: of pictures, and no script but the one that
is in it, by its hash.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section: its title, its anchor and its body, which is markup already."""

    title: str
    anchor: str
    body: Markup


def document(
    *,
    title: str,
    subtitle: str,
    generated: str,
    parts: Sequence[Part],
    styles: Sequence[str],
    script: str,
    definitions: str = "",
    data: Any = None,
    refresh: float | None = None,
) -> str:
    """Whole file. styles come after the frame's own. definitions: markup before the header.

    data: plain values for the script, which finds them as JSON in the element of id _data. refresh:
    seconds after which a browser without scripts loads the page again; with one the script does.
    """
    return (
        _frame()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            generated=generated,
            sections=parts,
            style=Markup("\n".join([resource("page.css"), *styles])),
            definitions=Markup(definitions),
            data="" if data is None else Markup(json_inside(data)),
            refresh=refresh,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
    )


@cache
def _frame() -> Environment:
    return environment(resource)


def json_inside(data: Any) -> str:
    """Compact JSON that can be in an element `script`: no text in it ends the element or begins
    a comment. Raises ValueError for a number that is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    # a lone surrogate has no UTF-8
    return text.encode("utf-8", "replace").decode("utf-8")


def environment(load: Callable[[str], str]) -> Environment:
    """Templates that escape every text. load: the text of a template by its name."""
    return Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def resource(name: str, package: str = "experiments.system.page") -> str:
    """A file of a package, by default of the frame's own."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
