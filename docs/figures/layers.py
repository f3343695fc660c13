"""Draws the pictures of docs/layers.md, and writes its table: `python docs/figures/layers.py`.

The table is of conf/model as it is, at the paper's width. A test holds the document to both.
"""

import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

import torch

from experiments.budget.costs import FFNConfig, Mixing
from experiments.config.composed import composed
from experiments.config.hydra_hints import choice_names
from experiments.config.reading import build
from experiments.gpu.documents import replaced
from experiments.init.growth import can_grow, find_grower
from experiments.init.how import find_how, ways
from experiments.models.ffn._base import FFN
from experiments.models.ffn.dense import DenseConfig

HERE = Path(__file__).parent
DOCUMENT, PICTURES = HERE.parent / "layers.md", HERE / "layers"
MARKS = "<!-- table of layers -->", "<!-- end of the table -->"
NAMES = tuple(name for name in choice_names("model") if name != "weights")
D_MODEL = 1024
_BYTES = {"float32": 4, "bfloat16": 2}

Cell = tuple[int, int]  # lane and column


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Boxes in lanes, by column, each joined to the next of its lane; and joins between lanes."""

    lanes: tuple[dict[int, str], ...]
    links: tuple[tuple[Cell, Cell], ...] = ()


FLOWS = {
    "dense": Picture(lanes=({0: "x", 1: "W_in", 2: "gelu", 3: "W_out", 4: "y"},)),
    "none": Picture(lanes=({0: "x", 1: "nothing", 2: "y = 0"},)),
    "moe": Picture(
        lanes=(
            {1: "router W_r\nE scores", 2: "softmax\nover experts",
             3: "an expert takes\nc T / E tokens"},
            {0: "x", 4: "chosen experts\nW_in, gelu, W_out", 5: "sum of\ngate × output", 6: "y"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4))),
    ),
    "moe_fine": Picture(
        lanes=(
            {1: "router W_r\nE scores", 2: "sigmoid\nof scores",
             3: "k best a token,\nby a bias too"},
            {0: "x", 4: "chosen experts\nW_in, gelu, W_out", 5: "sum of\ngate × output", 6: "y"},
            {4: "shared expert\nW_in, gelu, W_out"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4)), ((1, 0), (2, 4)), ((2, 4), (1, 5))),
    ),
    "pkm": Picture(
        lanes=(
            {0: "x", 1: "h queries\nof x, normed", 2: "scores of\n2 √N sub-keys",
             3: "k best pairs\na head", 4: "gates: softmax\nover the k", 5: "sum of\ngate × values",
             6: "y"},
        ),
    ),
    "peer": Picture(
        lanes=(
            {1: "h queries\nof x, normed", 2: "scores of\n2 √N sub-keys", 3: "k best pairs\na head",
             4: "gates: softmax\nover the k"},
            {0: "x", 4: "retrieved rows\nw_down · x, gelu", 5: "sum of gate ×\nunit × w_up",
             6: "y"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4)), ((0, 4), (1, 5))),
    ),
    "peer_narrow": Picture(
        lanes=(
            {1: "query\nof x, normed", 2: "scores of\n2 √N sub-keys", 3: "k best pairs",
             4: "gates: softmax\nover the k"},
            {0: "x", 1: "W_in\nto w numbers", 4: "retrieved rows\nw_down · p, gelu",
             5: "sum of gate ×\nunit × w_up", 6: "W_out\nto d numbers", 7: "y"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4)), ((0, 4), (1, 5))),
    ),
    "memory_plus": Picture(
        lanes=(
            {1: "h queries\nof x, normed", 2: "scores of\n2 √N sub-keys", 3: "k best pairs\na head",
             4: "sum of gate ×\nvalues: m"},
            {0: "x", 4: "gate\nsilu(W_gate x)", 5: "m × gate", 6: "W_out", 7: "y"},
        ),
        links=(((1, 0), (0, 1)), ((0, 4), (1, 5))),
    ),
    "sgatlin": Picture(
        lanes=(
            {1: "z = W_d x\none for all", 2: "scores s of C ×\n2 √(N/C) sub-keys",
             3: "k best pairs\na channel"},
            {0: "x", 4: "retrieved rows\ns × w_down · x", 5: "sum of\nunit × w_up", 6: "y"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4))),
    ),
    "omni": Picture(
        lanes=(
            {1: "2 √N scores\nkeys · x, normed", 2: "softmax of rows\nand of columns",
             3: "k best products\np_i q_j"},
            {0: "x", 4: "retrieved rows\nact(w_down · x)", 5: "gated sum\nof w_up", 6: "+", 7: "y"},
            {1: "SwiGLU"},
        ),
        links=(((1, 0), (0, 1)), ((0, 3), (1, 4)), ((1, 0), (2, 1)), ((2, 1), (1, 6))),
    ),
    "engram": Picture(
        lanes=(
            {0: "ids up to\nthis token", 1: "a hash for each\nn and table",
             2: "their rows\ne", 3: "key\nnorm(W_K e)", 4: "gate: sigmoid of\n±√|x · key / √d|"},
            {3: "value\nW_V e", 5: "gate × value\nv", 7: "+", 8: "y"},
            {6: "silu(conv of v,\n3 apart, normed)"},
            {0: "x", 3: "norm"},
        ),
        links=(
            ((0, 2), (1, 3)), ((0, 4), (1, 5)), ((3, 3), (0, 4)), ((1, 5), (2, 6)),
            ((2, 6), (1, 7)),
        ),
    ),
    "stem": Picture(
        lanes=(
            {0: "the token's id", 1: "its row\nof a table"},
            {0: "x", 1: "gate\nsilu(W_gate x)", 2: "row × gate", 3: "W_out", 4: "y"},
        ),
        links=(((0, 1), (1, 2)),),
    ),
    "ultramem": Picture(
        lanes=(
            {0: "x", 1: "h / 2 queries\nof x, normed", 2: "r and c: 2 scores\nof 2 √N sub-keys",
             3: "candidates by\n(u · r)(v · c)", 4: "k best of them\nby s = r C c",
             5: "sum of\ns × values", 6: "W_out\nto d numbers", 7: "y"},
            {3: "core C\nu, v: its first part"},
        ),
        links=(((1, 3), (0, 3)), ((1, 3), (0, 4))),
    ),
}  # fmt: skip

_COLUMN, _LANE, _WIDE, _HIGH, _EDGE = 150, 62, 126, 42, 12  # pixels
_STYLE: str = runpy.run_path(str(HERE / "flow.py"))["_STYLE"]


def drawn(name: str) -> str:
    """The SVG of a layer."""
    flow = FLOWS[name]
    n_columns = 1 + max(max(lane) for lane in flow.lanes)
    width = _COLUMN * n_columns - (_COLUMN - _WIDE) + 2 * _EDGE
    height = _LANE * len(flow.lanes) - (_LANE - _HIGH) + 2 * _EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"  <title>How a token's vector goes through {name}</title>",
        f"  <style>\n{_STYLE}\n    .middle {{ text-anchor: middle }}\n  </style>",
        '  <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M1 1 7 4 1 7"/></marker>',
        f'  <rect class="sheet" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
    ]
    for i, lane in enumerate(flow.lanes):
        for before, after in pairwise(sorted(lane)):
            lines.append(_arrow((i, before), (i, after)))
    lines += [_arrow(*link) for link in flow.links]
    for i, lane in enumerate(flow.lanes):
        for column, text in lane.items():
            lines += _box((i, column), text)
    return "\n".join([*lines, "</svg>", ""])


def _corner(cell: Cell) -> tuple[int, int]:
    return _EDGE + _COLUMN * cell[1], _EDGE + _LANE * cell[0]


def _box(cell: Cell, text: str) -> Iterator[str]:
    (x, y), rows = _corner(cell), text.split("\n")
    yield f'  <rect class="box" x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="5"/>'
    for i, row in enumerate(rows):
        at = y + _HIGH // 2 + 4 + 15 * i - 7 * (len(rows) - 1)
        yield f'  <text class="middle" x="{x + _WIDE // 2}" y="{at}">{escape(row)}</text>'


def _arrow(start: Cell, end: Cell) -> str:
    """From a box's right side, or straight up or down to the box above or below it."""
    (x, y), (to_x, to_y) = _corner(start), _corner(end)
    middle, to_middle = y + _HIGH // 2, to_y + _HIGH // 2
    if start[1] == end[1]:
        ends = (y + _HIGH, to_y - 1) if start[0] < end[0] else (y, to_y + _HIGH + 1)
        return f'  <path d="M{x + _WIDE // 2} {ends[0]}V{ends[1]}"/>'
    if middle == to_middle:
        return f'  <path d="M{x + _WIDE} {middle}H{to_x - 1}"/>'
    turn = (_COLUMN - _WIDE) // 2
    if end[1] - start[1] == 1 or start[0] < end[0]:
        return f'  <path d="M{x + _WIDE} {middle}h{turn}V{to_middle}H{to_x - 1}"/>'
    return f'  <path d="M{x + _WIDE} {middle}H{to_x - turn}V{to_middle}H{to_x - 1}"/>'


def table() -> list[str]:
    """Lines: a layer of conf/model a row, with its own numbers at D_MODEL."""
    columns = (
        "layer", "parameters", "of them active", "FLOPs a token", "bytes of tables a token",
        "causal", "grows by", "starts in a dense model by", "exports as",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(_row(name))} |" for name in NAMES]


def _row(name: str) -> Iterator[str]:
    config = build(composed([f"model={name}", "ladder=paper"])["model"], "model")
    cost = config.cost(D_MODEL)
    with torch.device("meta"):  # shapes alone
        layer = config.build(D_MODEL)
    yield f"[{name}](#{name})"
    yield _amount(cost.n_params)
    yield _amount(cost.n_active_params)
    yield _amount(cost.forward_flops)
    numbers = sum(t.n_active_params or t.n_params for t in cost.terms if t.n_tables)
    yield _amount(numbers * _BYTES[getattr(config, "table_dtype", "float32")])
    yield _causal(layer, getattr(config, "mixes", None))
    yield ", ".join(_growths(config)) or "–"
    yield ", ".join(_starts(config))
    yield "Arcee or Llama" if getattr(config, "is_mlp", False) else "with its code"


def _causal(layer: FFN, mixes: Mixing | None) -> str:
    """Of evaluation; and which tokens meet in training."""
    if not layer.causal:
        return "no"
    over = {None: "", "process": "a process's", "all_processes": "all processes'"}[mixes]
    return f"yes; in training over {over} tokens" if over else "yes"


def _growths(config: Any) -> Iterator[str]:
    if not can_grow(config):
        return
    for how in find_grower(config).ways:
        try:
            find_grower(config).grown(config, 4 * config.n_experts, how)
        except ValueError:
            continue
        yield how


def _starts(config: FFNConfig) -> Iterator[str]:
    """The ways of init.how in which a dense layer of the weights leads to this one."""
    for name in ways():
        how, base = find_how(name), DenseConfig()
        if how.is_own(base):
            continue
        try:
            how.check(SimpleNamespace(how=name), config, base, 0, D_MODEL)
        except ValueError:
            continue
        yield name


def _amount(number: float) -> str:
    """Three digits, as 1.05 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def main() -> None:
    """Writes the pictures and the table."""
    for name in FLOWS:
        (PICTURES / f"{name}.svg").write_text(drawn(name), encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replaced(text, table(), MARKS), encoding="utf-8")


if __name__ == "__main__":
    main()
