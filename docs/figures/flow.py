"""Draws flow.svg, the picture from settings to figures: `python docs/figures/flow.py`."""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_suffix(".svg")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the flow: what is done, in which rooms of the code."""

    name: str
    text: str
    rooms: tuple[str, ...]
    commands: tuple[str, ...] = ()  # modules of those that enter here
    files: tuple[str, ...] = ()


STAGES = (
    Stage(
        name="conf",
        text="yamls and overrides, checked",
        rooms=("experiments.config",),
        commands=("experiments.run",),
    ),
    Stage(
        name="plan",
        text="a budget becomes steps",
        rooms=("experiments.points", "experiments.budget", "experiments.sweep"),
        commands=("experiments.work",),
        files=("manifest.jsonl",),
    ),
    Stage(
        name="data",
        text="texts become windows of tokens",
        rooms=("experiments.data",),
        files=("tokens/*.bin",),
    ),
    Stage(
        name="init",
        text="random weights, or trained ones",
        rooms=("experiments.init",),
    ),
    Stage(
        name="model",
        text="a layer of experts in dense blocks",
        rooms=("experiments.models", "experiments.kernels"),
        commands=("experiments.bench",),
    ),
    Stage(
        name="train",
        text="steps; goes on after a kill",
        rooms=("experiments.training", "experiments.optim"),
        commands=("experiments.status", "experiments.cancel", "experiments.retry"),
        files=("last.ckpt", "history.csv"),
    ),
    Stage(
        name="record",
        text="the loss, and all that led to it",
        rooms=("experiments.records", "experiments.finished"),
        commands=(
            "experiments.evaluate",
            "experiments.generate",
            "experiments.export",
            "experiments.inspect",
        ),
        files=("record.json",),
    ),
    Stage(
        name="table",
        text="a row a run, checked",
        rooms=("analysis.table",),
        commands=("experiments.collect", "experiments.publish", "experiments.show"),
        files=("records.csv",),
    ),
    Stage(
        name="fits",
        text="isoFLOP curves, laws, intervals",
        rooms=("analysis.isoflop", "analysis.laws", "analysis.fitting"),
        commands=("analysis.commands.isoflop",),
        files=("fits.json",),
    ),
    Stage(
        name="figures, page",
        text="tables and figures, to read",
        rooms=("analysis.figures", "analysis.report"),
        commands=("analysis.commands.report",),
        files=("figures/*.png", "report.html"),
    ),
)

_ROW, _TOP = 46, 40  # pixels: from stage to stage, and of the head
_LEFT, _RIGHT, _WIDTH = 312, 668, 920  # of the boxes, and of all
_STYLE = """\
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .name { font-weight: 600 } .end { text-anchor: end } .head { fill: #57606a }
    .code { font: 12px ui-monospace, monospace }
    .sheet { fill: #ffffff; stroke: #d0d7de } .box { fill: #ddf4ff; stroke: #0969da }
    path { fill: none; stroke: #57606a; marker-end: url(#tip) } marker path { marker-end: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .head { fill: #9198a1 } path { stroke: #9198a1 }
      .sheet { fill: #0d1117; stroke: #3d444d } .box { fill: #12263f; stroke: #4493f8 }
    }"""


def drawn(stages: tuple[Stage, ...] = STAGES) -> str:
    """The SVG. It has a background of its own, as a page may be dark where a system is light."""
    height = _TOP + _ROW * len(stages) + 4
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"  <title>From settings to figures: {', '.join(stage.name for stage in stages)}</title>",
        f"  <style>\n{_STYLE}\n  </style>",
        '  <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M1 1 7 4 1 7"/></marker>',
        f'  <rect class="sheet" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        _text("head end", _LEFT - 30, 25, "commands"),
        _text("head", _LEFT + 14, 25, "stage"),
        _text("head", _RIGHT + 30, 25, "files written"),
    ]
    for i, stage in enumerate(stages):
        lines += _row(stage, _TOP + _ROW * i, last=i == len(stages) - 1)
    return "\n".join([*lines, "</svg>", ""])


def _row(stage: Stage, top: int, last: bool) -> list[str]:
    middle = top + 17
    lines = [
        f'  <rect class="box" x="{_LEFT}" y="{top}" width="{_RIGHT - _LEFT}" height="34" rx="5"/>',
        _text("name", _LEFT + 14, middle + 5, stage.name),
        _text("", _LEFT + 120, middle + 5, stage.text),
    ]
    if stage.commands:
        typed = (name.removeprefix("experiments.") for name in stage.commands)
        names = ", ".join(typed).replace(".commands.", " ")
        lines.append(_text("code end", _LEFT - 30, middle + 4, names))
        lines.append(f'  <path d="M{_LEFT - 24} {middle}H{_LEFT - 1}"/>')
    if stage.files:
        lines.append(f'  <path d="M{_RIGHT} {middle}H{_RIGHT + 24}"/>')
        lines.append(_text("code", _RIGHT + 30, middle + 4, ", ".join(stage.files)))
    if not last:
        lines.append(f'  <path d="M{(_LEFT + _RIGHT) // 2} {top + 34}v{_ROW - 35}"/>')
    return lines


def _text(kind: str, x: int, y: int, text: str) -> str:
    return f'  <text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
