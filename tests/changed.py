"""Tests of what changed, one file a line: `make test-changed`.

A room is a module or package directly in `experiments` or `analysis`. Its tests are in the folder
or file of its name. They are chosen if the room changed or imports one that did, directly or
through others. The tests of a folder that is no room's (soak, security) are chosen with any room of
their package, and files of no room (documents, words, packaging) always. All tests read conf/.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"src/experiments/": "experiments", "analysis/": "analysis"}
APART = ("study", "slurm")  # they have targets of their own


def changed_files(since: str | None = None, root: Path = ROOT) -> set[str]:
    """Paths that differ from a commit, by default from where this branch left main; new files too.

    Raises ValueError where git knows no such commit.
    """

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"git {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.splitlines()

    if since is None:
        mains = git("for-each-ref", "--format=%(refname)", "refs/heads/main", "refs/remotes/*/main")
        (since,) = git("merge-base", mains[0], "HEAD") if mains else ["HEAD"]
    tracked = git("diff", "--name-only", "--no-renames", since, "--")
    return {*tracked, *git("ls-files", "--others", "--exclude-standard")}


def room_of_source(path: str) -> str | None:
    """'experiments.models' of src/experiments/models/ffn/peer.py, None of what is no source."""
    for folder, package in PACKAGES.items():
        if path.startswith(folder):
            return f"{package}.{path.removeprefix(folder).split('/')[0].removesuffix('.py')}"
    return None


def room_of_test(path: str, rooms: set[str]) -> str | None:
    """'analysis.table' of tests/analysis/table/test_cells.py, 'analysis' of one of no room."""
    _, *parts = path.removesuffix(".py").split("/")
    package = parts.pop(0) if parts[0] == "analysis" else "experiments"
    room = f"{package}.{parts[0].removeprefix('test_')}"
    if room in rooms:
        return room
    return package if path.count("/") > 1 else None


def rooms_above(changed: set[str]) -> tuple[set[str], set[str]]:
    """All rooms; those that changed or import one that did, with the names of their packages."""
    graph = grimp.build_graph(
        *PACKAGES.values(),
        exclude_type_checking_imports=True,
        cache_dir=str(ROOT / ".import_linter_cache"),
    )
    rooms = {module for module in graph.modules if module.count(".") == 1}
    for room in rooms:
        graph.squash_module(room)
    above = changed.union(*(graph.find_downstream_modules(room) for room in changed & rooms))
    return rooms, above | {room.split(".")[0] for room in above}


def chosen(changed: set[str], tests: dict[str, str]) -> Iterator[str]:
    """Those of `tests` (their text by path) that the changed files concern."""
    if not changed:
        return
    rooms, above = rooms_above({room for path in changed if (room := room_of_source(path))})
    shared = [Path(p) for p in changed if p.startswith("tests/") and "/test_" not in p]
    folders = tuple(f"{path.parent}/" for path in shared)
    if any(path.startswith("conf/") for path in changed):
        folders = ("tests/",)
    names = [".".join(path.with_suffix("").parts) for path in shared]
    for path, text in tests.items():
        if (
            room_of_test(path, rooms) in {*above, None}
            or path in changed
            or path.startswith(folders)
            or any(name in text for name in names)
        ):
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--since", metavar="COMMIT", help="default: where this branch left main")
    since = parser.parse_args().since
    files = (path.relative_to(ROOT) for path in sorted((ROOT / "tests").rglob("test_*.py")))
    tests = {str(path): (ROOT / path).read_text() for path in files if path.parts[1] not in APART}
    try:
        print(*chosen(changed_files(since), tests), sep="\n")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
