"""Commands that write a folder of their own: an export, a library of adapters."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import export, library
from experiments.adapters.storage import is_library, load_library
from tests.soak.judge import DIFFERING, LEFT_OVER, LOST, Problem
from tests.soak.points import Points
from tests.soak.processes import Body
from tests.soak.stage import Alone
from tests.soak.trials import Trial


class Command(Alone):
    """A command by its name that has to leave the same files however often it is killed."""

    def __init__(self, folder: Path, points: Points, *_: Any) -> None:
        super().__init__(folder, points, ())

    @property
    def run_dir(self) -> Path:
        """It has no run."""
        return self.results / "none"

    def command(self) -> Body:
        return self.run

    def run(self) -> None:
        """Commands that are left to give."""
        raise NotImplementedError

    def expected(self) -> dict[str, Any]:
        folder = self.points.folder / f"reference-{self.name}"
        return self.points.kept(self.name, lambda: type(self)(folder, self.points).undisturbed())

    def left(self) -> dict[str, Any]:
        return {"runs": {}, "files": dict(_files(self.results))}

    def is_done(self) -> bool:
        return True

    def problems(self, trial: Trial) -> Iterator[Problem]:
        expected, found = trial.expected["files"], dict(_files(self.results))
        for name in sorted({*expected, *found}):
            if name not in found:
                yield Problem(kind=LOST, text=f"there is no {name}")
            elif name not in expected:
                yield Problem(kind=LEFT_OVER, text=name)
            elif found[name] != expected[name]:
                yield Problem(kind=DIFFERING, text=name)


class Export(Command):
    """A finished PEER run as a folder for transformers, which an earlier export is replaced by."""

    name = "export"

    def run(self) -> None:
        cache = f"paths.cache={self.cache}"
        _call(export, self.points.parents["peer"], self.results / "hf", cache)


class Library(Command):
    """A library that is made, gets a second adapter, loses the first, and is routed by hand."""

    name = "library"

    def run(self) -> None:
        folder, runs = self.results / "kept", self.points.parents
        if not is_library(folder):
            _call(library, "make", folder, f"sea={runs['sea']}", f"farm={runs['farm']}")
        names = list(load_library(folder).names)
        if "town" not in names:
            _call(library, "add", folder, f"town={runs['sea']}")
        if "sea" in names:
            _call(library, "remove", folder, "sea")
        _call(library, "route", folder, "mix")


def _call(module: Any, *words: object) -> None:
    sys.argv = [module.__name__, *map(str, words)]
    try:
        module.main()
    except SystemExit as end:
        if end.code:
            raise


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file below it, and the hash of its bytes; folders without one end in a slash."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            yield f"{name}/", ""
