"""Writes a finished run as a Hugging Face folder: `python -m experiments.export RUN FOLDER`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.words import PATCH, PLACES, Words
from experiments.inspection.editing.patch import named_patch
from experiments.interchange.place import check_folder, check_safetensors
from experiments.records.finished import finished_record
from experiments.system.command import run_words
from experiments.system.version import install

if TYPE_CHECKING:
    from experiments.adapters.lora_files import LoRA
    from experiments.inspection.editing.patch import Patch
    from experiments.interchange.forms import Form

_FORM, _MODEL, _BASE, PEFT = "form", "model", "base", "peft"
USAGE = """\
usage: python -m experiments.export RUN FOLDER [patch=FILE] [form=peft] ...

Writes the model of a finished run as a folder that transformers loads: config, weights
(safetensors), tokenizer, generation config and a model card. A dense model becomes a Llama (with
glu) or an Arcee; another brings its own modeling file, to be loaded with trust_remote_code=True.

  RUN                 the run's folder, results/<sweep>/<run_id>
  FOLDER              a new folder, an empty one, or an earlier export of the same run
  form=peft           of a run with init.train=lora: its adapter alone, as a folder of peft for the
                      base as transformers loads it; base=NAME notes what that is called
  patch=FILE          with edits of its experts (inspect patch); the model card says so
  paths.cache=PATH    the data cache with the run's tokenizer, if it is not the usual one
  --                  all words after it are folders, those that begin with a dash too
"""


def export_run(
    run_dir: Path, folder: Path, overrides: Sequence[str] = (), patch: "Patch | None" = None
) -> "Form":
    """Writes the folder and returns what is in it. patch: edits of experts, made first.

    Raises ValueError for a run that is not done, a layer without a form, and a folder that holds
    anything but an earlier export of this run; RuntimeError if it can't be written, or if
    transformers does not read the same model.
    """
    check_safetensors()
    mark = "" if patch is None else patch.label
    check_folder(folder, finished_record(run_dir).run_id + mark)
    # seconds, which what is refused need not wait for
    from experiments.finished.model import read_finished
    from experiments.interchange.card import model_card
    from experiments.interchange.folder import write_export
    from experiments.interchange.forms import find_form, n_bytes

    record, vocabulary, model = read_finished(run_dir, ("trainer.accelerator=cpu", *overrides))
    if patch is not None:
        patch.change(model)
    form = find_form(model, record.model, vocabulary.end_of_text)
    card = model_card(
        record, form, masked=model.config.document_end is not None, patch=_said(patch)
    )
    print(f"writing {n_bytes(form.state) / 1e6:.1f} MB to {folder}", flush=True)
    write_export(folder, form, vocabulary, record, card, mark)
    return form


def export_adapter(
    run_dir: Path, folder: Path, overrides: Sequence[str] = (), base: str | None = None
) -> "LoRA":
    """Writes the adapter of a run with init.train=lora as a folder of peft, and returns it, by the
    names of the maps of its base: a Llama or Arcee of transformers, or an export of ours with code.

    base: its name, for peft's own use. Raises ValueError for a run without adapters, and as
    export_run for folders.
    """
    check_safetensors()
    run_id = finished_record(run_dir).run_id
    from experiments.interchange.peft_form import check_peft_folder, write_peft

    check_peft_folder(folder, run_id)
    from experiments.adapters.lora_files import read_lora
    from experiments.finished.model import read_finished
    from experiments.interchange.forms import find_form, trunk_shape

    lora = read_lora(run_dir)
    record, vocabulary, model = read_finished(run_dir, ("trainer.accelerator=cpu", *overrides))
    form = find_form(model, record.model, vocabulary.end_of_text)
    shape = trunk_shape(model.config, record.model) if form.is_native else None
    return write_peft(folder, lora, record, shape, base)


def _said(patch: "Patch | None") -> str:
    """Patch in a line, for the model card."""
    return "" if patch is None else f"{patch.label.removeprefix('@')} {'; '.join(patch.describe())}"


def _run(words: Words) -> None:
    if len(words.plain) != 2:
        raise ValueError(f"a run and a folder are needed, and {len(words.plain)} given; see --help")
    run_dir, folder = map(Path, words.plain)
    if (kind := words.values.get(_FORM, _MODEL)) not in (_MODEL, PEFT):
        raise ValueError(f"{_FORM}={kind} must be {_MODEL} or {PEFT}")
    if kind == PEFT:
        if PATCH in words.values:
            raise ValueError(f"{PATCH}= edits experts, and {_FORM}={PEFT} has none; leave one out")
        lora = export_adapter(run_dir, folder, words.overrides, words.values.get(_BASE))
        print(f"{folder}: a LoRA of rank {lora.rank} beside {len(lora.maps)} linear maps")
        return
    if _BASE in words.values:
        raise ValueError(f"{_BASE}= is of {_FORM}={PEFT}; leave it out")
    patch = named_patch(words.values, run_dir, finished_record(run_dir))
    form = export_run(run_dir, folder, words.overrides, patch)
    code = "" if form.is_native else ", with its code: trust_remote_code=True"
    note = "" if form.causal else "; not causal: it scores texts and can't generate"
    print(f"{folder}: {form.architecture}{code}{note}")
    from experiments.interchange.reread import can_load

    if not can_load():
        print(f"not loaded again to check it: that needs transformers: {install('hf')}")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_words(lambda: USAGE, _run, keys=(PATCH, _FORM, _BASE), nodes=PLACES)


if __name__ == "__main__":
    main()
