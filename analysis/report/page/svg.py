"""Drawings inside a page: SVG that shares its glyphs and styles, and follows the colour scheme.

An SVG as matplotlib writes it becomes markup of the page itself. What does not draw is dropped,
coordinates keep two decimals, and glyphs, markers, clip paths and styles stand once in the page,
whichever drawings use them. Only elements, attributes and declarations named here pass, so that no
drawing brings a script, a link or an address.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from xml.etree.ElementTree import Element, ParseError, fromstring

_ELEMENTS = {
    *("svg", "g", "use", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
    *("text", "tspan", "clipPath", "image"),
}
_ATTRIBUTES = {
    *("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy"),
    *("width", "height", "points", "viewBox", "preserveAspectRatio"),
}
_DECLARATIONS = {
    *("fill", "fill-opacity", "fill-rule", "stroke", "stroke-opacity", "stroke-width"),
    *("stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset"),
    *("stroke-miterlimit", "opacity", "font", "font-size", "font-family", "font-weight"),
    *("text-anchor", "image-rendering"),
}
_VALUE = re.compile(r"[\w#.,%'\" -]+")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_STEP = re.compile(r"[A-Za-z]|[-+]?[\d.]+(?:e[-+]?\d+)?")  # of a path
_LOCAL = re.compile(r"\s*(?:url\()?#([^)\s]+)\)?\s*")
_DATA = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
_BASE = "stroke-linejoin:round;stroke-linecap:butt"  # what matplotlib says of all elements


class Svgs:
    """Drawings of one page, and what they share."""

    def __init__(self) -> None:
        self._definitions: dict[str, str] = {}  # markup without its id -> id
        self._classes: dict[str, str] = {}  # style -> class
        self._colours: dict[tuple[str, str], str] = {}  # light and dark -> variable

    def inline(self, svg: bytes, dark: Mapping[str, str], label: str) -> str:
        """A drawing as markup of the page. dark: light colour -> what a dark page has for it."""
        return _Drawing(self, parse(svg), dark).markup(label)

    def definitions(self) -> str:
        """Definitions that drawings refer to, as markup that takes no place."""
        each = "".join(text.replace("\0", name) for text, name in self._definitions.items())
        return f'<svg class="shared" aria-hidden="true">{each}</svg>' if each else ""

    def css(self) -> str:
        """Drawings' classes, and their colours in both schemes. Paper is light."""
        light = "".join(f"--{name}:{own};" for (own, _), name in self._colours.items())
        dark = "".join(f"--{name}:{other};" for (_, other), name in self._colours.items())
        rules = [f".{name}{{{style}}}" for style, name in self._classes.items()]
        if light:
            rules[:0] = [
                f":root{{{light}}}",
                f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}",
            ]
        return "\n".join(rules)

    def definition_id(self, definition: str) -> str:
        """Ids with a _ are no section's."""
        return self._definitions.setdefault(definition, f"_{len(self._definitions)}")

    def style_class(self, style: str) -> str:
        return self._classes.setdefault(style, f"v{len(self._classes)}")

    def variable_of(self, light: str, dark: str) -> str:
        return self._colours.setdefault((light, dark), f"v{len(self._colours)}")


class _Drawing:
    def __init__(self, shared: Svgs, root: Element, dark: Mapping[str, str]) -> None:
        self._shared, self._root, self._dark = shared, root, dark
        self._by_id = {node.attrib["id"]: node for node in root.iter() if "id" in node.attrib}
        self._ids: dict[str, str] = {}  # here -> in the page

    def markup(self, label: str) -> str:
        sides = _sides(self._root)
        size = f' width="{sides[0]:.0f}" height="{sides[1]:.0f}"' if sides else ""
        view_box = self._root.get("viewBox")
        box = f' viewBox="{escape(_rounded(view_box))}"' if view_box else ""
        inner = self._inner(self._root)
        style = self._shared.style_class(_BASE)
        return (
            f'<svg class="{style}"{size}{box} role="img" aria-label="{escape(label)}">{inner}</svg>'
        )

    def _element(self, node: Element, id_: str = "") -> str:
        name = _local(node.tag)
        if name not in _ELEMENTS:
            return ""
        attributes = id_ + "".join(f' {k}="{escape(v)}"' for k, v in self._attributes(node))
        inner = self._inner(node)
        if name == "g" and not attributes:
            return inner
        if inner:
            return f"<{name}{attributes}>{inner}</{name}>"
        return "" if name == "g" else f"<{name}{attributes}/>"

    def _inner(self, node: Element) -> str:
        is_text = _local(node.tag) in ("text", "tspan")
        found = [escape(node.text or "")] if is_text else []
        for child in node:
            found.append(self._element(child))
            found.append(escape(child.tail or "") if is_text else "")
        return "".join(found)

    def _attributes(self, node: Element) -> list[tuple[str, str]]:
        found, styles = [], []
        for key, value in node.attrib.items():
            name = _local(key)
            if name == "style":
                styles += [part.partition(":")[::2] for part in value.split(";")]
            elif name in _DECLARATIONS:
                styles.append((name, value))
            elif name == "d":
                found.append((name, _path(value)))
            elif name == "transform":
                found.append((name, _moved(value)))
            elif name in _ATTRIBUTES:
                found.append((name, _rounded(value)))
            elif name in ("href", "clip-path"):
                to = self._reference(name, value, node)
                found += [(name, to)] if to else []
        style = ";".join(
            f"{key.strip()}:{self._in_both_schemes(value.strip())}"
            for key, value in styles
            if key.strip() in _DECLARATIONS and _VALUE.fullmatch(value.strip())
        )
        return [*([("class", self._shared.style_class(style))] if style else []), *found]

    def _reference(self, name: str, value: str, node: Element) -> str | None:
        if name == "href" and _local(node.tag) == "image":
            return re.sub(r"\s", "", value) if _DATA.fullmatch(value) else None
        local = _LOCAL.fullmatch(value)
        target = self._by_id.get(local[1]) if local else None
        if local is None or target is None:
            return None
        if local[1] not in self._ids:
            self._ids[local[1]] = ""  # of a definition that refers to itself
            self._ids[local[1]] = self._shared.definition_id(self._element(target, ' id="\0"'))
        to = f"#{self._ids[local[1]]}"
        return to if name == "href" else f"url({to})"

    def _in_both_schemes(self, value: str) -> str:
        def swapped(found: re.Match[str]) -> str:
            light = found[0]
            dark = self._dark.get(light, light)
            return light if dark == light else f"var(--{self._shared.variable_of(light, dark)})"

        return _COLOUR.sub(swapped, value)


@lru_cache(maxsize=1)  # a drawing's sides are asked for before its markup
def parse(svg: bytes) -> Element:
    """Not to be changed. Raises ValueError if it is no SVG."""
    try:
        root = fromstring(svg)
    except ParseError as error:
        raise ValueError(f"{svg[:12]!r}... is no SVG: {error}") from error
    if _local(root.tag) != "svg":
        raise ValueError(f"{svg[:12]!r}... is no SVG but {_local(root.tag)!r}")
    return root


def aspect(svg: bytes) -> float | None:
    """Width over height; None if the drawing doesn't say."""
    sides = _sides(parse(svg))
    return sides[0] / sides[1] if sides else None


def _sides(root: Element) -> tuple[float, float] | None:
    """In pixels of CSS: matplotlib's points are 4/3 of them."""
    numbers = root.get("viewBox", "").split()
    if len(numbers) != 4 or not float(numbers[3]):
        return None
    unit = 4 / 3 if root.get("width", "").endswith("pt") else 1.0
    return unit * float(numbers[2]), unit * float(numbers[3])


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _short(number: str) -> str:
    text = f"{float(number):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _rounded(text: str) -> str:
    return _DECIMAL.sub(lambda found: _short(found[0]), text)


def _moved(transform: str) -> str:
    """Only distances are rounded: the scale of a glyph is 1/64."""
    return re.sub(r"translate\([^)]*\)", lambda found: _rounded(found[0]), transform)


def _path(d: str) -> str:
    """Same path: a letter is not repeated, and lines go on from M without theirs."""
    parts: list[str] = []
    command = ""
    for step in _STEP.findall(d):
        if not step.isalpha():
            number = _short(step)
            needs_space = parts and not parts[-1].isalpha() and not number.startswith("-")
            parts.append(f" {number}" if needs_space else number)
        elif step in "Zz" or (step != command and (command, step) != ("M", "L")):
            parts.append(step)
            command = step
        elif step == "M":
            parts.append(step)
    return "".join(parts)
