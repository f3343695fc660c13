"""Edits single experts, in a file: `python -m experiments.patch RUN FILE remove=[...] ...`."""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.words import PATCH, PLACES, Words
from experiments.records.finished import finished_record
from experiments.system.command import run_words

if TYPE_CHECKING:
    from experiments.inspection.editing.making import Wish
    from experiments.inspection.editing.patch import Patch

USAGE = """\
usage: python -m experiments.patch RUN FILE layer=NAME [remove=[I,...]] [swap=[I:J,...]] ...

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
_EDITS = ("remove", "swap", "add")
_KEYS = ("layer", *_EDITS, "from", PATCH)


def patch_run(
    run_dir: Path,
    path: Path,
    wish: "Wish",
    overrides: tuple[str, ...] = (),
    *,
    layer: str | None = None,
    source: Path | None = None,
    first: Path | None = None,
) -> "Patch":
    """Writes the patch of a layer of a run, or of all that an earlier one has too.

    source: the run that copies are of. first: the file of an earlier patch. Raises ValueError for
    what can't be edited so.
    """
    record = finished_record(run_dir)
    from experiments.inspection.editing.files import check_new, read_patch, write_patch

    check_new(path)
    begun = None if first is None else read_patch(first, run_dir, record)
    if source is not None:
        finished_record(source)
    # seconds, which what is refused need not wait for
    from experiments.finished.model import read_finished
    from experiments.inspection.editing.applying import apply
    from experiments.inspection.editing.making import edits_of, joined, make_patch
    from experiments.inspection.interface import inspected_layers, the_layer

    _, _, model = read_finished(run_dir, overrides)
    own = the_layer(model, layer)
    other = own
    if source is not None:
        (other,) = inspected_layers(read_finished(source, overrides)[2], [own.name])
    edits = {} if begun is None else {part.name: part.edits for part in begun.layers}
    made = edits_of(wish, own, other)
    edits[own.name] = joined(edits[own.name], made) if own.name in edits else made
    patch = make_patch(record.run_id, model, edits)
    apply(model, patch)  # refuses rows of another size
    write_patch(path, patch)
    return patch


def _run(words: Words) -> None:
    if len(words.plain) != 2:
        raise ValueError(f"a run and a file are needed, and {len(words.plain)} given; see --help")
    run_dir, path = Path(words.plain[0]), Path(words.plain[1]).expanduser()
    values = words.values
    if not any(key in values for key in _EDITS):
        if values:
            raise ValueError(f"{next(iter(values))}= is of an edit; give remove=, swap= or add=")
        _show(run_dir, path, words.overrides)
        return
    from experiments.inspection.editing.making import Wish, read_indices, read_pairs

    wish = Wish(
        removed=read_indices(values.get("remove", ""), "remove"),
        swapped=read_pairs(values.get("swap", ""), "swap"),
        added=read_pairs(values.get("add", ""), "add"),
    )
    if not wish:
        raise ValueError("no expert is named; give remove=[17], swap=[1:2] or add=[5:17]")
    if "from" in values and not wish.added:
        raise ValueError("from= is of add=[I:J]; give that too, or leave it out")
    patch = patch_run(
        run_dir,
        path,
        wish,
        words.overrides,
        layer=values.get("layer"),
        source=_path(values.get("from")),
        first=_path(values.get(PATCH)),
    )
    print("\n".join(patch.describe()))
    print(f"patch: {path}")


def _show(run_dir: Path, path: Path, overrides: tuple[str, ...]) -> None:
    from experiments.inspection.editing.files import read_patch

    patch = read_patch(path, run_dir, finished_record(run_dir))
    from experiments.finished.model import read_finished
    from experiments.inspection.editing.applying import apply

    apply(read_finished(run_dir, overrides)[2], patch)
    print("\n".join(patch.describe()))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_words(lambda: USAGE, _run, keys=_KEYS, nodes=PLACES)


if __name__ == "__main__":
    main()
