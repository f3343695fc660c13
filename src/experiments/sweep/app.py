"""Protocol by which a sweep asks the app whose runs it has: language models, or anything else.

The engine composes no config and trains nothing. It knows which points there are, which of them
have ended, who runs the others, and what to try again. All else it asks an App: what a config
means, what a plan prints, what has to be there before, and the run itself. docs/engine.md has the
contract, and own_app.py what an ordinary Hydra app has to write of it.
"""

import filecmp
import importlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from experiments.records.app_record import Record
from experiments.sweep.point import Point
from experiments.system import code_copy
from experiments.system.disk import make_folder, write_text_atomically
from experiments.system.environment import PACKAGE
from experiments.system.json_files import read_json
from experiments.system.regular_files import read_regular_text
from experiments.system.signatures import is_signed, key_path, signature

Raw = Mapping[str, Any]
P = TypeVar("P", bound=Point)
F = TypeVar("F", bound=Callable[..., Any])
FIRST = "experiments.language.app:APP"  # of sweeps whose folder names none, as all once were
FILE_NAME = "app.json"  # of a sweep's folder
_MANIFEST = "manifest.jsonl"  # of one, by manifest.py, which imports this
FOLDER = "app"  # of a copy of the code: the app's own files
Progress = Callable[[dict[str, float]], None]


class App(ABC, Generic[P]):
    """Whatever has runs. It has no state: it is asked in several processes.

    unit: that of Point.own_work. modules: imported once, before a sweep's processes are forked.
    """

    unit: ClassVar[str] = "FLOPs"
    modules: ClassVar[tuple[str, ...]] = ()

    # From configs to points

    @abstractmethod
    def plan(self, raws: Sequence[Raw], *, stored: bool) -> Sequence[P]:
        """Points of a sweep, or one. Raises ValueError, before anything is written, for what would
        fail later. stored: the configs are a manifest's; others were composed now.
        """

    @abstractmethod
    def run_id(self, raw: Raw) -> str:
        """Run id of a config, without planning it. Raises ValueError for a bad one."""

    def run_id_of_result(self, point: P) -> str:
        """Same for points that can't differ in their result, however their configs are spelled."""
        return point.run_id

    def check_word(self, word: str) -> None:
        """Raises ValueError for an override of the command line that can't be meant."""

    @abstractmethod
    def plan_text(self, points: Sequence[P]) -> str:
        """Text of a dry run."""

    def seconds(self, points: Sequence[P]) -> float | None:
        """That the plan expects of these runs one after the other; None: not known."""
        return None

    def check_planned(self, points: Sequence[P]) -> None:
        """Raises ValueError if one has no room where it is planned for."""

    def check_fits(self, points: Sequence[P], n_sharing: int, setting: str = "") -> None:
        """Raises ValueError if one, or n_sharing of it at once on its device, as that setting says,
        has no room here.
        """

    def is_plain(self, raw: Raw) -> bool:
        """Whether the run's id depends on config and code alone: no file, and no other run."""
        return False

    # Where a sweep's folder is

    def relocatable(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        """Config as a manifest keeps it: paths from the sweep's folder."""
        return dict(raw)

    @abstractmethod
    def located(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        """A manifest's config, of results in sweep_dir, wherever that was before."""

    # Searches

    def check_search(self, keys: Collection[str], objective: str) -> None:
        """Raises ValueError for an objective that is no number of a record, and for a key at whose
        values it measures different things.
        """

    def check_scored(self, point: P, objective: str) -> None:
        """Raises ValueError for an objective that this run will not have."""

    # Runs that others start from

    def trunks(self, points: Sequence[P]) -> Sequence[P]:
        """Further runs that these wait for, as long as the longest needs."""
        return ()

    def check_trunks(self, points: Sequence[P]) -> None:
        """Raises ValueError for a point whose given trunk has nothing to start from."""

    # Before a run, the run, and after it

    def prepare(self, points: Sequence[P]) -> None:
        """Fetches or makes all that they need, before any starts: nodes may have no network."""

    def enter(self, points: Sequence[P]) -> None:
        """Called when they are given away to be run, under the sweep's lock."""

    def begin(self, point: P, trunks: Sequence[P]) -> bool:
        """Whether this process is the first of the run's, of a command without a queue. trunks:
        those that it would run before. Raises ValueError for what can't be run so.
        """
        return True

    @abstractmethod
    def execute(
        self,
        point: P,
        progress: Progress = lambda row: None,
        n_threads: int | None = None,
        on_stall: Callable[[str], object] = lambda why: None,
    ) -> Record:
        """Runs the point in its folder, from its checkpoint if it has one, and returns the record
        that it wrote.

        n_threads: CPU threads if the config does not say. on_stall(why): before a process that
        makes no step is ended. Raises RunningElsewhereError if another process has the run,
        RunLostError if its folder was taken away, KeyboardInterrupt if it was stopped and goes on
        later, ValueError if it can't be run here. A failure is a record, and not raised.
        """

    def here(self, point: P) -> P:
        """Point as this machine runs it. Raises ValueError if it can't."""
        return point

    def repair(self, point: P) -> None:
        """Writes again what a loss of power has taken from a finished run."""

    def ended_text(self, record: Record) -> str:
        """A finished run's result, in the line that says that it has ended."""
        return record.status

    def ended_lines(self, point: P, record: Record, *, before: bool) -> list[str]:
        """Lines after a single run. before: it had ended before this command."""
        return []

    # Its code

    def files(self) -> list[tuple[str, Path]]:
        """Its own files by their names in a copy of the code, below FOLDER. Those of this package
        are there in any case.
        """
        return []

    @property
    def repository(self) -> Path:
        """Folder of its code, whose commit a copy notes."""
        return PACKAGE


@dataclass(frozen=True, kw_only=True)
class AppFile:
    """Where an app is, that is no part of this package: a class of a Python file. name: module and
    class, as ridge:Ridge.
    """

    name: str
    file: str
    signature: str | None = None

    def __post_init__(self) -> None:
        for key, value in (("name", self.name), ("file", self.file)):
            if not isinstance(value, str):
                raise TypeError(f"{key}={value!r} is no text")

    def content(self) -> bytes:
        """Bytes that are signed."""
        return json.dumps([self.name, self.file]).encode()


def of_app(place: str) -> Callable[[F], F]:
    """Decorator of what Hydra calls for each point: its launchers ask whose points these are."""

    def mark(function: F) -> F:
        vars(function)["place"] = place
        return function

    return mark


_known: dict[str, App[Any]] = {}  # by their places


def introduce(place: str, app: App[Any]) -> None:
    """From now on find_app knows it by this place."""
    _known[place] = app


def find_app(place: str) -> App[Any]:
    """App of a place, module:name; of a class one without arguments. Only for places of this
    package, and those that were introduced or whose file is in the copy of the code that runs.
    """
    if place not in _known:
        module, _, name = place.partition(":")
        found = getattr(importlib.import_module(module), name)
        _known[place] = found() if isinstance(found, type) else found
    return _known[place]


def app_of(points: Sequence[Point]) -> App[Any]:
    """App of these points of one sweep."""
    return find_app(points[0].app)


def note_app(sweep_dir: Path, place: str) -> None:
    """Writes into a sweep's folder whose runs it has, for commands that begin with the folder."""
    check_owner(sweep_dir, place)
    if place == FIRST:
        return
    path, found = sweep_dir / FILE_NAME, AppFile(name=place, file=str(_file(place)))
    signed = {**vars(found), "signature": signature(found.content())}
    text = json.dumps(signed, indent=1) + "\n"
    make_folder(sweep_dir)
    if not path.exists() or read_regular_text(path, "replace") != text:
        write_text_atomically(path, text, mode=0o644)


def check_owner(sweep_dir: Path, place: str) -> None:
    """Raises ValueError for a folder that has the runs of another app, or of another file with an
    app of that name: commands that begin with the folder know one.
    """
    try:
        found = AppFile(**read_json(sweep_dir / FILE_NAME))
        name, file = found.name, Path(found.file)
    except FileNotFoundError:
        if not (sweep_dir / _MANIFEST).exists():
            return
        name, file = FIRST, Path(__file__)
    except (OSError, ValueError, TypeError):
        return  # is written again
    if name == place == FIRST:
        return
    if name == place and (not file.is_file() or filecmp.cmp(file, _file(place), shallow=False)):
        return  # it was moved, or copied
    whose = f"language models (no {FILE_NAME})" if name == FIRST else f"{name} of {file}"
    raise ValueError(
        f"sweep={sweep_dir.name}: {sweep_dir} has runs of {whose}, and a sweep has those of one "
        "app; give it a name of its own, sweep=NAME"
    )


def _file(place: str) -> Path:
    """Where an app of one's own is."""
    return Path(str(sys.modules[type(find_app(place)).__module__].__file__)).resolve()


def app_of_sweep(sweep_dir: Path, *, trusted: bool = False) -> str:
    """Place of the app of a sweep's folder, which find_app knows from now on.

    A process that runs from a copy of the code takes the copy's; another the file that the folder
    names. Raises ValueError if that file is not there, or was named by somebody else, for importing
    it runs it, unless it is trusted.
    """
    path = sweep_dir / FILE_NAME
    try:
        values = read_json(path)
        found = AppFile(**values)
        module, colon, name = found.name.partition(":")
        if not (module.isidentifier() and colon and name.isidentifier()):
            raise ValueError(f"{found.name!r} names no class of a file")
    except FileNotFoundError:
        return FIRST
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); start the sweep by its app's own command, which writes "
            "it again"
        ) from error
    if found.name in _known:
        return found.name
    copy = Path(__file__).resolve().parents[3]
    if copy.parent.name == code_copy.FOLDER and (copy / FOLDER).is_dir():
        sys.path.insert(0, str(copy / FOLDER))
    else:
        _check_file(path, found, trusted)
        sys.path.insert(0, str(Path(found.file).parent))
    if not isinstance(find_app(found.name), App):
        raise ValueError(f"{path}: {found.name} is no App (experiments.sweep.app)")
    return found.name


def _check_file(path: Path, found: AppFile, trusted: bool) -> None:
    """Raises ValueError for a file that this user's commands have not named, or that is gone."""
    if not trusted and not is_signed(found.content(), found.signature):
        raise ValueError(
            f"{path} says that {found.file} has these runs, and is not signed by you (key: "
            f"{key_path()}), so that somebody else may have written it, and importing that file "
            "runs it; start the sweep by its app's own command, or add --trust if you know the file"
        )
    if not Path(found.file).is_file() or Path(found.file).stem != found.name.partition(":")[0]:
        raise ValueError(
            f"{path}: the app's file {found.file} is not there; start the sweep by its app's own "
            "command, from where the file is now"
        )
