"""A page's sections whose losses are not nats per token: what its texts and tables call them."""

from collections.abc import Sequence
from dataclasses import replace

from analysis.report.page.blocks import (
    Block,
    Checklist,
    DataTable,
    Drawing,
    Section,
    Text,
    Warnings,
)
from analysis.table.units import PER_TOKEN, in_unit


def sections_in(unit: str, sections: Sequence[Section]) -> list[Section]:
    """Sections, their texts, captions and units in this unit of losses."""
    if unit == PER_TOKEN:
        return list(sections)
    return [replace(s, blocks=[_block(unit, block) for block in s.blocks]) for s in sections]


def _block(unit: str, block: Block) -> Block:
    if isinstance(block, Text):
        return replace(block, text=in_unit(block.text, unit))
    if isinstance(block, Drawing):
        return replace(block, caption=in_unit(block.caption, unit))
    if isinstance(block, DataTable):
        per = {"per token": "per byte"}
        units = {name: in_unit(per.get(of, of), unit) for name, of in block.units.items()}
        return replace(block, caption=in_unit(block.caption, unit), units=units)
    if isinstance(block, Warnings):
        causes = [replace(cause, text=in_unit(cause.text, unit)) for cause in block.causes]
        return replace(block, causes=causes)
    if isinstance(block, Checklist):
        items = [(topic, known and in_unit(known, unit)) for topic, known in block.items]
        return replace(block, items=items)
    return block
