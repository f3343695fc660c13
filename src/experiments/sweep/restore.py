"""A manifest's lines as configs to run again."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from experiments.records.files import DamagedError
from experiments.sweep import manifest
from experiments.sweep.app import App
from experiments.sweep.lost import CONFIG_NAME, list_folders, lost_entries
from experiments.sweep.manifest import MANIFEST_NAME, Entry
from experiments.system.plain_text import printable
from experiments.system.regular_files import read_regular_text


def read_raws(
    app: App[Any], sweep_dir: Path, run_ids: Collection[str] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Configs of a sweep's points to run, of these run ids (None: all), and how many can't be.

    Runs whose lines are lost are found by their folders. What can't be run, and why, is a line
    each on stderr. Raises ValueError if there is no manifest, or no point that can be run.
    """
    known = manifest.read(sweep_dir)
    lost = lost_entries(sweep_dir, list_folders(sweep_dir) - set(known))
    entries = [e for e in (*known.values(), *lost) if run_ids is None or e.run_id in run_ids]
    raws, n_refused = [], 0
    for entry in entries:
        try:
            raws.append(read_raw(app, sweep_dir, entry))
        except ValueError as error:
            n_refused += 1
            print(f"error: {printable(str(error))}", file=sys.stderr)
    if not raws:
        raise ValueError(f"{sweep_dir} has no point that can be run")
    return raws, n_refused


def raw_of_run(app: App[Any], sweep_dir: Path, run_id: str) -> dict[str, Any]:
    """As read_raw, of one run id. Raises ValueError if neither a line nor a folder tells of it."""
    known = manifest.read(sweep_dir).get(run_id)
    entries = lost_entries(sweep_dir, [run_id]) if known is None else [known]
    if not entries:
        raise ValueError(
            f"{sweep_dir / MANIFEST_NAME} has no line of run {run_id}; the command that started "
            "the sweep writes it again"
        )
    return read_raw(app, sweep_dir, entries[0])


def read_raw(app: App[Any], sweep_dir: Path, entry: Entry) -> dict[str, Any]:
    """Config of an entry's run, its results in sweep_dir.

    Raises ValueError, naming file and line, if it is not the config of that run id, or no config of
    this version.
    """
    if entry.line is None:
        path, where = sweep_dir / entry.run_id, "no line of the manifest names it"
    else:
        path, where = sweep_dir / MANIFEST_NAME, f"line {entry.line}"
    try:
        raw = app.located(_config(sweep_dir, entry), sweep_dir)
        found = app.run_id(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}, {where}, run {entry.run_id}: {error}") from error
    if found != entry.run_id:
        raise ValueError(
            f"{path}, {where}: the config of run {entry.run_id} is that of {found} by now: its "
            "app, its training text or the version of this code is another one; restore what was "
            "changed, or give the command that started the sweep, which enters it as a new run"
        )
    return raw


def _config(sweep_dir: Path, entry: Entry) -> dict[str, Any]:
    raw = entry.raw
    if raw:
        return raw
    path = sweep_dir / entry.run_id / CONFIG_NAME  # no line and no record
    try:
        text = read_regular_text(path)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases, which grow without end, and ours have none")
        loaded = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(loaded, dict):
            raise ValueError("it holds no config")
    except Exception as error:  # of PyYAML, OmegaConf or the system
        raise DamagedError(path, str(error).splitlines()[0], "delete the folder") from error
    return {str(k): v for k, v in loaded.items()}
