"""The code that a sweep runs: a copy of it at submission, which later edits can't reach."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import experiments
from experiments.config.paths import conf_dir, sbatch_dir
from experiments.data.cache import made_once
from experiments.system.disk import write_text_atomically
from experiments.system.environment import (
    SNAPSHOT_DIFF,
    SNAPSHOT_FOLDER,
    SNAPSHOT_NAME,
    git_diff,
    git_state,
)


def take_snapshot(sweep_dir: Path) -> Path:
    """sweep_dir/.code/<hash>, with src/ and conf/; made once for the same content.

    <hash> is of the files' names and bytes, 12 hex digits. Caches and compiled files are left out.
    """
    sources = _sources()
    files = [(f"{top}/{p.relative_to(root)}", p) for top, root in sources for p in _files(root)]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")

    def make(folder: Path) -> None:
        for name, path in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        here = Path(experiments.__file__).parent
        write_text_atomically(folder / SNAPSHOT_NAME, json.dumps(git_state(here), indent=1) + "\n")
        if (diff := git_diff(here)) is not None:
            write_text_atomically(folder / SNAPSHOT_DIFF, diff, private=True)

    return made_once(sweep_dir / SNAPSHOT_FOLDER / digest.hexdigest()[:12], make)


def run_from(snapshot: Path) -> None:
    """Makes processes that this one starts import the snapshot's code."""
    source = str((snapshot / "src").resolve())
    sys.path.insert(0, source)
    rest = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (source, rest)))


def _sources() -> list[tuple[str, Path]]:
    package = Path(experiments.__file__).resolve().parent
    plugins = package.parent / "hydra_plugins"
    return [
        ("src/experiments", package),
        ("src/hydra_plugins", plugins),
        ("conf", conf_dir()),
        ("sbatch", sbatch_dir()),
    ]


def _files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".cpp", ".cu", ".h", ".sh")
    )
