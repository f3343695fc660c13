"""Copy of the code that a sweep runs: .code/<hash>, and whether it is what its name says.

Quick to import, and without packages: a queued task asks before it imports the rest of the copy.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from experiments.system.json_files import read_json
from experiments.system.regular_files import read_regular

FOLDER = ".code"  # of a sweep: holds the copies
STATE_NAME = "code.json"  # beside the src/ of a copy: the commit it was taken at
DIFF_NAME = "code.diff"  # and what was not committed; may hold secrets
TOPS = ("src/experiments", "src/hydra_plugins", "conf", "sbatch")
OF_APP = "app"  # the files of an app that is no part of this package
_SUFFIXES = (".py", ".pyi", ".yaml", ".cpp", ".cu", ".h", ".sh")
_COMPILED = "__pycache__"
_DIGITS = 12


def list_files(top: str, root: Path) -> list[tuple[str, Path]]:
    """Files of a folder that a copy has as `top`, by their names there."""
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix in _SUFFIXES)
    return [(f"{top}/{path.relative_to(root)}", path) for path in found]


def find_name(digest: str) -> str:
    """A copy's name, of the digest of its files: its first 12 digits."""
    return digest[:_DIGITS]


def compute_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Sha256 of the files' names and bytes."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(name.encode() + b"\0" + read_regular(path) + b"\0")
    return digest.hexdigest()


def find_damage(copy: Path, digest: str | None = None) -> str | None:
    """Says what is wrong with a copy; None if its files are those that its name is the hash
    of, and nothing that Python could import is beside them. digest: of the files that it must have;
    by its name alone, others can be found within days of computing.

    What Python has compiled is not looked at: who asks removes it (compiled).
    """
    files = [file for top in (*TOPS, OF_APP) for file in list_files(top, copy / top)]
    known = {path for _, path in files} | {copy / STATE_NAME, copy / DIFF_NAME}
    for path in sorted(copy.rglob("*")):
        if path.is_symlink():
            return f"{path} is a link"
        is_compiled = _COMPILED in path.relative_to(copy).parts
        if not is_compiled and path.is_file() and path not in known:
            return f"{path} does not belong to it"
    try:
        read_json(copy / STATE_NAME)
    except (OSError, ValueError):
        return f"{copy / STATE_NAME} can't be read"
    found = compute_digest(files)
    if find_name(found) == copy.name and digest in (None, found):
        return None
    empty = [str(path) for name, path in files if not path.stat().st_size and _has_text(name)]
    return "its files are not those that its name is the hash of" + (
        f": {empty[0]} is empty" if empty else ""
    )


def _has_text(name: str) -> bool:
    return not name.endswith("__init__.py")


def compiled(copy: Path) -> list[Path]:
    """Folders of what Python has compiled of a copy, and would run in place of the files."""
    return list(copy.rglob(_COMPILED))
