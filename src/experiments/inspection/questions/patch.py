"""Edits of single experts, in a file that evaluate, generate, export and inspect take."""

from pathlib import Path
from typing import Any

from experiments.config.words import PATCH, PLACES, Words
from experiments.inspection.command import Question
from experiments.inspection.editing.patch import (
    LayerEdits,
    Patch,
    check_new,
    read_indices,
    read_pairs,
    read_patch,
    write_patch,
)  # fmt: skip
from experiments.records.finished import finished_record

_USAGE = """\
usage: python -m experiments.inspect patch RUN FILE layer=NAME [remove=[I,...]] [swap=[I:J,...]] ...

Writes a file that edits single experts of a finished run, for patch=FILE of evaluate, generate,
export and inspect. The run stays as it is. Without an edit, it says what a file holds.

  RUN                 the run's folder, results/<sweep>/<run_id>
  FILE                a new file, NAME.json
  layer=NAME          as blocks.1.ffn; not needed where one layer alone has experts
  remove=[I,J-K]      experts that write nothing then; a range has both of its ends
  swap=[I:J,...]      pairs that change places: what key I finds is J, and what J finds is I
  add=[I:J,...]       at I a copy of the expert J, in the place of what is there
  from=RUN            J of add= is of this run's layer, and not of the same run's
  patch=FILE          begins with the edits of an earlier patch
  paths.cache=PATH    and other keys of trainer and paths
"""
_EDITS = {"remove": read_indices, "swap": read_pairs, "add": read_pairs}


def patch_run(
    run_dir: Path,
    path: Path,
    overrides: tuple[str, ...] = (),
    *,
    layer: str | None = None,
    source: Path | None = None,
    first: Path | None = None,
    **edits: Any,
) -> Patch:
    """Writes the patch of a layer of a run, or of all that an earlier one has too.

    source: the run that copies are of. first: the file of an earlier patch. edits: as of edits_of.
    Raises ValueError for what can't be edited so.
    """
    record = finished_record(run_dir)
    check_new(path)
    begun = () if first is None else read_patch(first, run_dir, record).layers
    if source is not None:
        finished_record(source)
    # seconds, which what is refused need not wait for
    from experiments.finished.model import read_finished
    from experiments.inspection.editing.applying import apply, list_edits, make_patch
    from experiments.inspection.interface import inspected_layers, the_layer

    _, _, model = read_finished(run_dir, overrides)
    own = other = the_layer(model, layer)
    if source is not None:
        (other,) = inspected_layers(read_finished(source, overrides)[2], [own.name])
    all_edits = {part.name: part.edits for part in begun}
    all_edits[own.name] = all_edits.get(own.name, LayerEdits()) + list_edits(own, other, **edits)
    patch = make_patch(record.run_id, model, all_edits)
    apply(model, patch)  # refuses rows of another size
    write_patch(path, patch)
    return patch


def _run(words: Words) -> None:
    if len(words.plain) != 2:
        raise ValueError(f"a run and a file are needed, and {len(words.plain)} given; see --help")
    run_dir, path = Path(words.plain[0]), Path(words.plain[1]).expanduser()
    values = words.values
    removed, swapped, added = (read(values.get(key, ""), key) for key, read in _EDITS.items())
    if _EDITS.keys().isdisjoint(values):
        if values:
            raise ValueError(f"{next(iter(values))}= is of an edit; give remove=, swap= or add=")
        patch = _checked(run_dir, path, words.overrides)
        print("\n".join(patch.describe()))
        return
    if not (removed or swapped or added):
        raise ValueError("no expert is named; give remove=[17], swap=[1:2] or add=[5:17]")
    if "from" in values and not added:
        raise ValueError("from= is of add=[I:J]; give that too, or leave it out")
    paths = {key: Path(values[key]).expanduser() for key in ("from", PATCH) if key in values}
    patch = patch_run(
        run_dir, path, words.overrides, layer=values.get("layer"), source=paths.get("from"),
        first=paths.get(PATCH), removed=removed, swapped=swapped, added=added,
    )  # fmt: skip
    print("\n".join([*patch.describe(), f"patch: {path}"]))


def _checked(run_dir: Path, path: Path, overrides: tuple[str, ...]) -> Patch:
    """What a file holds, after the model took it."""
    patch = read_patch(path, run_dir, finished_record(run_dir))
    from experiments.finished.model import read_finished

    patch.change(read_finished(run_dir, overrides)[2])
    return patch


QUESTION = Question(usage=_USAGE, run=_run, keys=("layer", *_EDITS, "from", PATCH), nodes=PLACES)
