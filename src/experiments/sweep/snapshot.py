"""Code that a sweep runs: a copy of it at submission, which later edits can't reach."""

import json
import os
import sys
from pathlib import Path

from experiments.records.files import set_aside
from experiments.sweep.again import own_files
from experiments.sweep.app import FIRST, FOLDER, find_app
from experiments.system import code_copy
from experiments.system.disk import (
    copy_file,
    make_folder,
    refuse_links,
    remove_tree,
    write_text_atomically,
)
from experiments.system.environment import git_diff, git_state
from experiments.system.made_once import made_once


def take_snapshot(sweep_dir: Path, place: str = FIRST) -> Path:
    """sweep_dir/.code/<hash>, with src/ and conf/, and app/ with an app's own files; made
    once for the same content. place: the app's.

    <hash> is of the files' names and bytes. Caches and compiled files are left out. One that is
    there and is not what its name says, after a loss of power or by another's hand, is set aside
    with a warning and made again.
    """
    files = own_files(place)
    digest = code_copy.compute_digest(files)
    copy = sweep_dir / code_copy.FOLDER / code_copy.find_name(digest)
    refuse_links(copy.parent)
    if os.path.lexists(copy):
        why = f"{copy} is a link" if copy.is_symlink() else code_copy.find_damage(copy, digest)
        for folder in () if copy.is_symlink() else code_copy.compiled(copy):
            remove_tree(folder)  # as far as it is this user's
        if why is not None:
            aside = set_aside(copy).name
            print(
                f"warning: the copy of the code {copy} is damaged ({why}); it is kept as {aside}, "
                "not run, and made again",
                file=sys.stderr,
            )

    def make(folder: Path) -> None:
        for name, path in files:
            target = folder / name
            make_folder(target.parent)
            copy_file(path, target)
        repository = find_app(place).repository
        state = json.dumps(git_state(repository), indent=1) + "\n"
        write_text_atomically(folder / code_copy.STATE_NAME, state)
        if (diff := git_diff(repository)) is not None:
            write_text_atomically(folder / code_copy.DIFF_NAME, diff, mode=0o600)

    return made_once(copy, make)


def run_from(snapshot: Path) -> None:
    """Makes processes that this one starts import the snapshot's code."""
    folders = [str((snapshot / name).resolve()) for name in ("src", FOLDER)]
    sys.path[:0] = folders
    rest = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*folders, rest)))
