"""Looks inside a finished run: `python -m experiments.inspect RUN [texts=NAME,...]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.words import PATCH, PLACES, Words, make_node
from experiments.inspection.command import Question
from experiments.inspection.editing.patch import named_patch
from experiments.records.finished import finished_record
from experiments.system.disk import check_writable, followed, make_folder, reached
from experiments.system.modules import find_modules

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from experiments.inspection.cards import LayerCard
    from experiments.inspection.contributions import Contributions
    from experiments.inspection.editing.patch import Patch

_USAGE = """\
usage: python -m experiments.inspect RUN [texts=NAME,...] [layers=NAME,...] ...
       python -m experiments.inspect QUESTION RUN ...

Reads texts with a finished run's model, and keeps of each layer which experts read them: tables,
a card of each layer and a page, inspect.html, in a folder. Interrupted, the same command goes on.
Of a run that kept checkpoints (trainer.keep_at) the cards at each of them are told too.
With text="..." it says what each expert adds to the logit of the next token.

  RUN                         the run's folder, results/<sweep>/<run_id>
{texts}
  layers=NAME,...             as blocks.1.ffn; all that can say so without it
  out=FOLDER                  instead of RUN/inspection
  text=TEXT                   one text, token by token. It goes into the tables and the page of the
                              folder, if they are there; texts= makes them too
  top=N                       experts a token that are shown of it; default 3
  find=STRING                 which experts fire on a string of several tokens, wherever it is in
                              the texts
  before=RUN                  the run that this one started from, read too: what moved, and what
                              the new experts of one that has grown took over
  patch=FILE                  with edits of its experts (inspect patch), in a folder of its own
{keys}
Further questions, each with --help of its own:
"""
_KEYS = ("texts", "layers", "out", "text", "top", "find", "before", PATCH)
QUESTIONS = Path(__file__).parent / "inspection" / "questions"


def inspect_run(
    run_dir: Path,
    texts: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    layers: Sequence[str] | None = None,
    folder: Path | None = None,
    patch: "Patch | None" = None,
    find: str | None = None,
    before: Path | None = None,
) -> "list[LayerCard]":
    """Cards of a run's layers over texts; all tables are in the folder then. Cards that are
    there already are read. find: a string that the tables are to have which experts fire on.
    before: the folder of the run that it started from, which they are to have the mass of. They
    have the cards at the checkpoints that the run kept, too, unless it is patched.

    Raises ValueError for a run that is not done, a layer that can't say which experts it reads, a
    text of another tokenizer, a string that is in no text, and a folder of other results.
    """
    record = finished_record(run_dir)
    folder = choose_folder(run_dir, patch) if folder is None else folder
    check_writable(folder, "or name another folder by out=...")
    # seconds, which what is refused need not wait for
    from experiments.inspection.additions import added, wanted
    from experiments.inspection.opened import opened
    from experiments.inspection.over_training import with_training
    from experiments.inspection.page.page import save
    from experiments.inspection.reading import read_through
    from experiments.inspection.results import CARD, PAGE, fitting
    from experiments.inspection.tables import make_inspection

    run = opened(run_dir, record, texts, overrides, layers=layers, change=patch)
    there, wrong = fitting(folder, run.reading.identity)
    for name, why in wrong.items():
        then = "; what was added to it is to be added again" if name == CARD else ""
        print(f"{folder / name} {why}; it is made again{then}", file=sys.stderr, flush=True)
    found = there if wrong.keys() <= {PAGE} else None
    places = [word for word in overrides if make_node(word) in PLACES]
    more = wanted(run, there if found is None else None, find, before, places)
    if found is None:
        reading, n_texts = run.reading, len(run.texts)
        print(
            f"{len(run.layers)} layers over {reading.n_tokens():,} tokens of {n_texts} texts: "
            f"statistics take up to {reading.n_bytes(run.layers) / 2**20:,.0f} MiB of memory",
            flush=True,
        )
        make_folder(folder)
        read = read_through(run.model, run.layers, reading, folder)
        found = make_inspection(run, read)
    whole = added(found, run, more, folder)
    if wrong or whole is not there:
        save(whole, folder, name=record.model)
    if patch is None:
        whole = with_training(whole, run, folder)
    return list(whole.cards)


def choose_folder(run_dir: Path, patch: "Patch | None") -> Path:
    """Where an inspection is, unless another folder is named."""
    return reached(run_dir) / f"inspection{'' if patch is None else patch.label}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """A text's ids, with the end of another document before them, and of each layer what its
    experts add to the logits of the next tokens. weights: sha256 of the run's model.
    """

    text: str
    tokenizer: "Tokenizer"
    ids: list[int]
    parts: "list[Contributions]"
    weights: str


def explain_text(
    run_dir: Path,
    text: str,
    overrides: Sequence[str] = (),
    *,
    layers: Sequence[str] | None = None,
    patch: "Patch | None" = None,
) -> Explained:
    """Raises ValueError as inspect_run does, and for a text longer than the model's window."""
    finished_record(run_dir)
    from experiments.finished.model import read_finished
    from experiments.inspection.additions import typed_parts
    from experiments.inspection.interface import inspected_layers
    from experiments.models.digest import tensors_sha256

    _, vocabulary, model = read_finished(run_dir, overrides)
    chosen = inspected_layers(model, layers)
    weights = tensors_sha256(model.state_dict())
    if patch is not None:
        patch.change(model)
    ids, parts = typed_parts(model, chosen, text, vocabulary)
    return Explained(
        text=text, tokenizer=vocabulary.tokenizer(), ids=ids, parts=parts, weights=weights
    )


def keep_text(run_dir: Path, found: Explained, folder: Path, patch: "Patch | None" = None) -> bool:
    """Adds what explain_text has found to the tables and the page of a folder. False: no
    inspection of this run, with this patch, is there. Raises NotWholeError for damaged tables.
    """
    from experiments.inspection.additions import with_typed
    from experiments.inspection.excerpts import explained
    from experiments.inspection.page.page import save
    from experiments.inspection.results import CARD, read_inspection
    from experiments.system.several_files import settle

    record = finished_record(run_dir)
    settle(folder / CARD)
    if not (folder / CARD).exists():
        return False
    there = read_inspection(folder)
    own = {"run_id": record.run_id, "patch": patch.label if patch else "", "weights": found.weights}
    if any(there.identity.get(key) != value for key, value in own.items()):
        return False
    tables = explained("", found.ids, found.parts, found.tokenizer)
    save(with_typed(there, found.text, tables), folder, name=record.model)
    return True


def _run(words: Words) -> None:
    run_dir, values = Path(words.one_run("texts are given as texts=NAME,...")), words.values
    if "top" in values and "text" not in values:
        raise ValueError("top= is of text=...; give one, or leave it out")
    top, layers = words.number("top", 3, 1), words.names("layers") or None
    patch = named_patch(values, run_dir, finished_record(run_dir))
    folder = choose_folder(run_dir, patch)
    if "out" in values:
        folder = followed(Path(values["out"]).expanduser())
    from experiments.inspection.lines import (
        lines_of_before,
        lines_of_cards,
        lines_of_strings,
        lines_of_text,
        lines_of_training,
    )
    from experiments.inspection.results import PAGE, TRAINING, read_inspection

    explained = None
    if "text" in values:  # first: a text that is refused need not wait for others to be read
        places = [word for word in words.overrides if make_node(word) in PLACES]
        explained = explain_text(run_dir, values["text"], places, layers=layers, patch=patch)
        for one in explained.parts:
            lines = lines_of_text(explained.tokenizer, explained.ids, one, top)
            print("\n".join([*lines, ""]))
    before = Path(values["before"]).expanduser() if "before" in values else None
    if explained is None or not {"texts", "find", "before"}.isdisjoint(values):
        cards = inspect_run(
            run_dir,
            words.names("texts"),
            words.overrides,
            layers=layers,
            folder=folder,
            patch=patch,
            find=values.get("find"),
            before=before,
        )
        over = read_inspection(folder).tables[TRAINING]
        print("\n".join([*lines_of_cards(cards), *lines_of_training(over)]))
    if explained is not None and not keep_text(run_dir, explained, folder, patch):
        print(f"page: none, {folder} has no inspection of this run; texts=... makes one")
        return
    if "find" in values:
        table = read_inspection(folder).tables["strings"]
        print("\n".join(lines_of_strings(table, values["find"])))
    if before is not None:
        print("\n".join(lines_of_before(read_inspection(folder).about)))
    print(f"tables: {folder}")
    print(f"page: {folder / PAGE}")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    given, further = sys.argv[1:], {found.name: found.about for found in find_modules(QUESTIONS)}
    if given and given[0] in further:
        found = import_module(f"experiments.inspection.questions.{given[0]}")
        found.QUESTION.ask(given[1:])
    else:
        lines = "".join(f"  {name:8} {about}\n" for name, about in further.items())
        Question(usage=_USAGE + lines, run=_run, keys=_KEYS).ask(given)


if __name__ == "__main__":
    main()
