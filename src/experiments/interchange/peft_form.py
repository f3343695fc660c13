"""A finished LoRA run as a folder of peft, by the names of the base as transformers loads it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from experiments.adapters.lora_files import LoRA, LowRank
from experiments.adapters.peft_folder import write_lora
from experiments.init.llama import llama_layout
from experiments.init.source import Shape
from experiments.interchange.folder import write_marker
from experiments.interchange.place import check_folder
from experiments.records.record import RunRecord
from experiments.system.disk import OTHER_FOLDER, explained, reached, whole_folder, write_text
from experiments.system.text_table import filled

_MARK = "@form=peft"


def check_peft_folder(folder: Path, run_id: str) -> None:
    """As place.check_folder, of an adapter."""
    check_folder(folder, run_id + _MARK)


def write_peft(
    folder: Path, lora: LoRA, record: RunRecord, shape: Shape | None, base: str | None
) -> LoRA:
    """Writes the folder, whole or not at all, and returns what is in it.

    shape: of a base that is transformers' own Llama or Arcee; None: the base is an export with its
    own code, whose parts have the trunk's names. base: its name, for peft. Raises ValueError as
    check_peft_folder.
    """
    folder = reached(folder.absolute())
    check_peft_folder(folder, record.run_id)
    if shape is not None:
        lora = replace(lora, maps=_by_their_names(lora.maps, shape))
    with explained(folder, OTHER_FOLDER), whole_folder(folder) as new:
        write_lora(lora, new, base)
        write_text(new / "README.md", _card(lora, record, base))
        write_marker(new, record, _MARK)
    return lora


def _by_their_names(maps: Mapping[str, LowRank], shape: Shape) -> dict[str, LowRank]:
    """Queries, keys and values are one map here and three there: each has its rows of B, and the
    whole A.
    """
    layout, theirs = llama_layout(shape), {}
    for path, low_rank in maps.items():
        parts = layout[f"{path}.weight"]
        ups = low_rank.up.split([size[0] for size in parts.values()], dim=1)
        for name, up in zip(parts, ups, strict=True):
            theirs[name.removesuffix(".weight")] = replace(low_rank, up=up.contiguous())
    return theirs


def _card(lora: LoRA, record: RunRecord, base: str | None) -> str:
    named = [] if base is None else [f"base_model: {json.dumps(base)}"]
    head = ["---", "library_name: peft", *named, "tags:", "- lora", "---"]
    loss = "" if record.val_loss is None else f" Held-out loss {record.val_loss:.4f} nats/token."
    text = (
        f"A LoRA of rank {lora.rank} beside {len(lora.maps)} linear maps, trained by the harness "
        f"expert-isoflops (run {record.run_id}, {record.n_tokens:,} tokens).{loss} It belongs to "
        f"the weights of sha256 {lora.base}, as that harness hashes them, and to no others."
    )
    code = [
        "```python",
        "base = AutoModelForCausalLM.from_pretrained(BASE)",
        'model = PeftModel.from_pretrained(base, "FOLDER")',
        "```",
    ]
    return "\n".join([*head, "", f"# {record.run_id}", "", filled(text), "", *code]) + "\n"
