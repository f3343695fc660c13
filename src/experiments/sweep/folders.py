"""Folders of sweeps: by name, by path, all of them. Quick to import."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.records.files import RECORD_NAME
from experiments.sweep.lost import list_folders
from experiments.sweep.manifest import MANIFEST_NAME
from experiments.system.disk import followed, reached


def sweep_argument(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Arguments by which every command of a finished or running sweep names it."""
    parser.add_argument(
        "sweep",
        nargs="?" if optional else None,
        help="a sweep's name, or its folder; put -- before one that begins with a dash"
        + ("; without it: all sweeps" if optional else ""),
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="the folder of the sweeps (default: results)",
    )


def sweep_folder(options: argparse.Namespace) -> Path:
    """Folder that the arguments name. Raises ValueError if it is no sweep's."""
    results = followed(options.results)
    for folder in (reached(Path(options.sweep)), results / options.sweep):
        if _is_sweep(folder):
            return folder
    known = sorted(
        str(path.relative_to(options.results)) for path in sweep_folders(options.results)
    )
    raise ValueError(
        f"no sweep {options.sweep!r} in {options.results}; it has {', '.join(known) or 'none'}"
    )


def now_called(raw: Mapping[str, Any], sweep_dir: Path) -> tuple[str, Path]:
    """A sweep's name, by where its folder is now, and the folder of results that this is in. raw:
    the config of a point of it, whose group is before the name if that folder is there too.
    """
    folder = Path(os.path.abspath(sweep_dir))  # noqa: PTH100  (resolve() would follow links)
    group = str(raw.get("sweep", "")).split("/")[:-1]
    kept = group if group and list(folder.parts[-1 - len(group) : -1]) == group else []
    return "/".join([*kept, folder.name]), folder.parents[len(kept)]


def sweep_folders(results: Path) -> list[Path]:
    """Sweeps below a folder, those of groups (group/name) too, in order of their names."""
    found: list[Path] = []
    for folder in _within(results):
        found += [folder] if _is_sweep(folder) else filter(_is_sweep, _within(folder))
    return found


def _is_sweep(folder: Path) -> bool:
    """Whether it has a manifest, or a run's record, as committed studies have."""
    if (folder / MANIFEST_NAME).exists():
        return True
    return any((run / RECORD_NAME).exists() for run in _within(folder))


def _within(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(list_folders(folder))]
