"""Makes a folder of a sweep for a hub or Zenodo: `python -m experiments.publish SWEEP FOLDER`.

Records, tables, figures and report, a dataset card, checksums, and models by choice. Nothing is
uploaded.
"""

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from experiments.collect import read_runs, write_tables
from experiments.export import export_run
from experiments.interchange.place import check_place
from experiments.interchange.public import as_yaml, find_folder, public_record
from experiments.interchange.publication_card import publication_card
from experiments.interchange.runs_card import UNKNOWN, check_licence
from experiments.records.files import HISTORY_NAME, of_language_model, write_record
from experiments.records.finished import finished_record
from experiments.records.record import RunRecord, flat_row
from experiments.records.uncommitted import uncommitted_note
from experiments.sweep import manifest
from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.sweep.lost import CONFIG_NAME, lost_entries
from experiments.system.command import Parser, exit_codes
from experiments.system.disk import (
    OTHER_FOLDER,
    explained,
    file_sha256,
    make_folder,
    reached,
    whole_folder,
    write_text,
)
from experiments.system.git import run_git
from experiments.system.regular_files import MOST, open_regular, read_regular
from experiments.system.version import own_version

MARKER, SUMS = "publication.json", "SHA256SUMS"
MODELS = ("none", "best", "all")
_HISTORY = re.compile(rb"[\w.,/-]+\r?\n(?:[-+\d.eE,naif]*\r?\n)*")  # names, then rows of numbers
_WEIGHTS = ".safetensors"


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = Parser(description=" ".join((__doc__ or "").split()))
    sweep_argument(parser)
    parser.add_argument(
        "folder", type=Path, help="a new folder, or an earlier publication of the same sweep"
    )
    parser.add_argument(
        "--license",
        default=UNKNOWN,
        metavar="ID",
        help="of what is published, as the hub names it, e.g. cc-by-4.0 (default: unknown)",
    )
    parser.add_argument(
        "--models",
        choices=MODELS,
        default="none",
        help="weights to export too: none (default), those of the best run of each model at its "
        "largest budget, or of all runs that are done",
    )
    options = parser.parse_args()
    with exit_codes():
        licence, sweep_dir = check_licence(options.license), sweep_folder(options)
        n_files = publish(sweep_dir, reached(options.folder.absolute()), licence, options.models)
        print(f"{options.folder}: {n_files} files; README.md is its card")
        if licence == UNKNOWN:
            print("note: it has no licence yet; --license ID says it", file=sys.stderr)


def publish(sweep_dir: Path, folder: Path, licence: str = UNKNOWN, models: str = "none") -> int:
    """Writes the folder, whole or not at all; returns the number of its files.

    Raises ValueError for a sweep without a run that is done, a folder that holds anything but an
    earlier publication of this sweep, a run that can't be exported, and a file that would hold a
    path of this machine; RuntimeError if it can't be written.
    """
    found = {
        name: of_language_model(sweep_dir / name, run) for name, run in read_runs(sweep_dir).items()
    }
    if not any(record.status == "done" and not record.is_trunk for record in found.values()):
        raise ValueError(f"{sweep_dir} has no run that is done; see python -m experiments.status")
    runs = {name: public_record(record) for name, record in found.items()}
    results = [record for record in runs.values() if not record.is_trunk]
    sweep, exported = results[0].sweep, _chosen(runs, models)
    _check(folder, sweep, runs)
    for name in exported:  # before the minute that the report takes
        finished_record(sweep_dir / name)
    if note := uncommitted_note(results):
        print(f"note: {note}", file=sys.stderr)
    with explained(folder, OTHER_FOLDER), whole_folder(folder) as new:
        _write_runs(sweep_dir, new / "runs", runs)
        write_tables(new, [flat_row(record) for record in results])
        _write_report(new, sweep)
        for name in exported:
            make_folder(new / "models")
            print(f"exporting {runs[name].model} {name}", file=sys.stderr)
            with redirect_stdout(io.StringIO()):  # as above
                export_run(sweep_dir / name, new / "models" / name)
        code = run_git(Path(__file__).parent, "rev-parse", "HEAD")
        commit = None if code is None else code.strip()
        card = publication_card(results, licence, own_version(), commit, exported)
        write_text(new / "README.md", card)
        if licence != UNKNOWN:
            write_text(new / "LICENSE", _licence(licence, exported))
        return _seal(
            new, sweep, list(runs), commit, _private_folders(new, folder, sweep_dir.parent)
        )


def _check(folder: Path, sweep: str, runs: Mapping[str, RunRecord]) -> None:
    earlier: list[str] = []

    def owner(marker: Mapping[str, Any]) -> str:
        earlier.extend(map(str, marker["runs"]))
        return f"the sweep {marker['sweep']}"

    check_place(folder, f"the sweep {sweep}", MARKER, owner, "publication")
    if lost := sorted({*earlier} - {*runs}):
        raise ValueError(
            f"{folder} has the run {lost[0]}, which the sweep has not; name another folder"
        )


def _chosen(runs: Mapping[str, RunRecord], models: str) -> list[str]:
    """Folders' names of the runs whose weights are asked for."""
    done = {
        name: (record, record.val_loss)
        for name, record in runs.items()
        if record.status == "done" and record.val_loss is not None
    }
    if models == "none":
        return []
    if models == "all":
        return list(done)
    best: dict[str, tuple[float, float, str]] = {}
    for name, (record, loss) in done.items():
        assert loss is not None
        rank = (-record.budget, loss, name)
        best[record.model] = min(best.get(record.model, rank), rank)
    return [name for _, _, name in best.values()]


def _write_runs(sweep_dir: Path, folder: Path, runs: Mapping[str, RunRecord]) -> None:
    for name, record in runs.items():
        write_record(folder / name, record)
        write_text(folder / name / CONFIG_NAME, as_yaml(record.config))
        try:  # not through a link: its target may be the reader's own
            with open_regular(sweep_dir / name / HISTORY_NAME, MOST, follow=False) as file:
                rows = file.read()
        except OSError:
            continue
        if _HISTORY.fullmatch(rows):
            write_text(folder / name / HISTORY_NAME, rows.decode())
        else:
            print(
                f"warning: {name}/{HISTORY_NAME} is no table of numbers, left out", file=sys.stderr
            )
    manifest.add(folder, lost_entries(folder, list(runs)))


def _write_report(folder: Path, sweep: str) -> None:
    """As `python -m analysis report` writes it of the records that are there."""
    import matplotlib as mpl

    from analysis.options import as_option, check_options, declared
    from analysis.parser import make_parser
    from analysis.settings import settings_named

    title = f"Experts at equal compute: {sweep}"
    options = make_parser("").parse_args(["report", str(folder), "--title", title])
    options.typed = "python -m analysis report ."
    mpl.use("Agg")
    said = io.StringIO()  # names of files that are not yet where they will be
    with settings_named(partial(as_option, declared(options))), redirect_stdout(said):
        check_options(options)
        options.chosen.run(options)


def _private_folders(*own: Path) -> list[Path]:
    """Folders of this machine that no file may name; / is none."""
    folders = (*(folder.absolute() for folder in own), Path.cwd(), Path.home())
    return [folder for folder in folders if len(folder.parts) > 1]


def _licence(licence: str, models: Sequence[str]) -> str:
    lines = [
        licence,
        "",
        "The records, tables, figures and the report of this folder are published under this",
        "licence; its name is that of https://huggingface.co/docs/hub/repositories-licenses.",
        "It is not that of the texts that models were trained on, which are not here: README.md.",
    ]
    more = "Each model's own README.md says what its weights were made of." if models else ""
    return "\n".join([*lines, *([more] if more else [])]) + "\n"


def _seal(
    folder: Path, sweep: str, runs: Sequence[str], commit: str | None, private: Sequence[Path]
) -> int:
    """Writes the marker and the checksums; returns the number of files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(path.relative_to(folder)) for path in paths]
    for name, path in zip(names, paths, strict=True):
        held = None if path.suffix == _WEIGHTS else find_folder(read_regular(path), private)
        if held is not None:
            raise ValueError(
                f"{name} would hold {held}, a path of this machine; take it out of what names it"
            )
    marker = {"format": 1, "sweep": sweep, "version": own_version(), "commit": commit}
    files = sorted([*names, MARKER, SUMS])
    write_text(
        folder / MARKER, json.dumps(marker | {"runs": runs, "files": files}, indent=1) + "\n"
    )
    sums = [f"{file_sha256(folder / name)}  {name}\n" for name in files if name != SUMS]
    write_text(folder / SUMS, "".join(sums))
    return len(files)


if __name__ == "__main__":
    main()
