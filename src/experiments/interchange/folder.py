"""An export on disk: a folder that transformers loads, written whole or not at all.

config.json, model.safetensors, generation_config.json
tokenizer.json, tokenizer_config.json
README.md                     the model card
export.json                   whose export it is, and the files
configuration_experts.py, layers_experts.py, modeling_experts.py, tokens_experts.py, and the own
source of their parts             the code, where no architecture of transformers fits
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.schema import OF_TRUNK
from experiments.data.vocabulary import Vocabulary
from experiments.interchange.forms import Form, are_equal
from experiments.interchange.place import MARKER, check_folder
from experiments.interchange.reread import check_loads
from experiments.interchange.sources import flat_sources, format_table
from experiments.records.record import RunRecord
from experiments.system.disk import (
    OTHER_FOLDER,
    explained,
    file_sha256,
    reached,
    whole_folder,
    write_text,
)

WEIGHTS = "model.safetensors"
_FORMAT = 1
_TEMPLATE = Path(__file__).parent / "template"
_CODE = ("configuration_experts.py", "modeling_experts.py", "tokens_experts.py")
# which the modeling file imports too
_USED = (
    "experiments.models.batch_norm",
    "experiments.models.positions.positions",
    "experiments.models.residuals.residual",
)


def write_export(
    folder: Path, form: Form, vocabulary: Vocabulary, record: RunRecord, card: str, patch: str = ""
) -> None:
    """Writes all files under another name beside the folder, reads them back, and renames. What
    killed exports to the same folder have left goes; an earlier export is put back first, where a
    kill came between its two renames. patch: the label of the one that the model has.

    Raises ValueError as check_folder, and RuntimeError as disk.explained, if the weights that are
    read back are not those that were written, or as reread.check_loads.
    """
    from safetensors.torch import load_file, save_file

    folder = reached(folder.absolute())
    with explained(folder, OTHER_FOLDER), whole_folder(folder) as new:
        check_folder(folder, record.run_id + patch)
        for name, text in _texts(form, vocabulary, record, card).items():
            write_text(new / name, text)
        save_file(dict(form.state), new / WEIGHTS, metadata={"format": "pt"})
        if not are_equal(load_file(new / WEIGHTS), form.state):
            raise RuntimeError(f"{folder}: the weights read back are not those written")
        check_loads(new, form)
        write_marker(new, record, patch)


def _texts(form: Form, vocabulary: Vocabulary, record: RunRecord, card: str) -> Mapping[str, str]:
    end = vocabulary.end_of_text
    tokenizer = vocabulary.tokenizer()
    end_token = tokenizer.id_to_token(end)
    texts = {
        "config.json": _json(form.config),
        "generation_config.json": _json({"eos_token_id": end, "do_sample": False}),
        "tokenizer.json": vocabulary.read(),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": end_token,
                "pad_token": end_token,
                "model_max_length": form.config["max_position_embeddings"],
                "clean_up_tokenization_spaces": False,
            }
        ),
        "README.md": card,
    }
    return texts if form.is_native else texts | _code(form)


def _code(form: Form) -> dict[str, str]:
    """Modeling file, and the source of the layers that the model has."""
    targets = set(_targets([form.config[part] for part in ("ffns", *OF_TRUNK)]))
    texts = flat_sources([*_USED, *sorted({t.rpartition(".")[0] for t in targets})])
    texts["layers_experts.py"] = format_table(targets)
    texts |= {name: (_TEMPLATE / name).read_text(encoding="utf-8") for name in _CODE}
    # transformers keeps one class of models for a class of configs, and the latter by its text
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    texts[_CODE[0]] += f'\n\nCODE = "{digest}"  # sha256 of all files of code, without this line\n'
    return texts


def _targets(node: Any) -> Iterator[str]:
    """Layers' classes, wherever they are in the nodes."""
    if isinstance(node, Mapping):
        yield from (value for name, value in node.items() if name == "_target_")
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _targets(part)


def write_marker(new: Path, record: RunRecord, patch: str) -> None:
    """export.json: whose the folder is, and its files."""
    files = {path.name: file_sha256(path) for path in sorted(new.iterdir())}
    marker = {"format": _FORMAT, "run_id": record.run_id, "files": {**files, MARKER: None}}
    marker |= {"patch": patch} if patch else {}
    write_text(new / MARKER, _json(marker))


def _json(values: Any) -> str:
    return json.dumps(values, indent=1) + "\n"
