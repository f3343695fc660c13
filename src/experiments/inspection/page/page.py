"""Page as one file of HTML: at most LIMIT bytes, and it says what it leaves out for that."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.inspection.page.data import Size, layer_data
from experiments.inspection.results import TRAINING, Inspection, write_results
from experiments.system.page.shell import Part, document, environment, resource

LIMIT = 5_000_000  # bytes
_SIZES = (
    Size(),
    Size(searched=300),
    Size(side=128, searched=100, typed=2048),
    Size(side=64, experts=6, searched=30, parts=8, typed=1024),
    Size(side=32, experts=3, contexts=4, searched=0, parts=4, typed=256),
)


def save(found: Inspection, folder: Path, *, name: str) -> None:
    """Write an inspection and its page, as write_results does. name: of the model."""
    page = render_page(found, name=name)
    write_results(folder, found, page)


def render_page(found: Inspection, *, name: str, limit: int = LIMIT) -> str:
    """Page. name: of the model. Where all of it would be too large, maps become coarser and
    experts fewer, and then the last layers are left out; the tables have all of them.
    """
    n = len(found.cards)
    sizes = [(size, n) for size in _SIZES]
    while n > 1:
        n = (n + 1) // 2
        sizes.append((_SIZES[-1], n))
    for size, n in sizes:
        layers = [layer_data(found, card, size) for card in found.cards[:n]]
        page = _document(found, name, layers, size)
        if len(page.encode()) <= limit:
            return page
    raise ValueError(f"a page of one layer is larger than {limit:,} bytes; name fewer texts")


def _document(found: Inspection, name: str, layers: Sequence[dict[str, Any]], size: Size) -> str:
    macros = _macros()
    texts = [{**text, "n_tokens": text["max_tokens"] or "all"} for text in found.identity["texts"]]
    shown = {
        "cards": found.cards,
        "texts": texts,
        "layers": layers,
        "size": size,
        "whole": _SIZES[0],
        "n_layers": len(found.cards),
        "n_typed": len(found.typed),
        "n_shown": sum(1 for text in layers[0]["texts"] if text["typed"]),
        "about": found.about,
        "training": found.tables[TRAINING].to_dict("records"),
    }
    parts = [
        Part(title=title, anchor=macro, body=Markup(getattr(macros, macro)(shown)))
        for title, macro in (
            ("Layers", "layers"),
            ("Where the mass is", "map"),
            ("Experts", "experts"),
            ("Token by token", "excerpts"),
            ("Search", "search"),
            ("Numbers, and what they do not say", "numbers"),
        )
    ]
    return document(
        title=f"Inside {name} {found.identity['run_id']}{found.identity['patch']}",
        subtitle="Which experts tokens read, where, and how much",
        generated=f"python -m experiments.inspect, texts: {', '.join(t['name'] for t in texts)}",
        parts=parts,
        styles=[_resource("inspect.css")],
        script=_resource("inspect.js"),
        data={"layers": list(layers), "texts": [text["name"] for text in texts]},
    )


@cache
def _macros() -> Any:
    return environment(_resource).get_template("inspect.html").module


def _resource(name: str) -> str:
    return resource(name, "experiments.inspection.page")
