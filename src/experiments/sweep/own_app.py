"""An app of one's own: an ordinary Hydra app whose runs the commands of this project sweep.

One class of one file says what a config means and runs it; `main` of it is the command. docs/
engine.md has it from an empty file to a sweep on a cluster, and examples/ridge is one.
"""

import hashlib
import json
import os
import socket
import sys
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from experiments.config import late
from experiments.config.paths import conf_dir
from experiments.records.app_record import AppRecord, Record
from experiments.records.files import write_record
from experiments.records.finished import ended_any_record
from experiments.sweep.app import App, Progress, Raw, introduce, of_app
from experiments.sweep.counting import counted
from experiments.sweep.folders import now_called
from experiments.sweep.own_point import ENGINE, OwnPoint, Size, check_engine, plain_config
from experiments.sweep.own_run import Run, log_lines
from experiments.sweep.refusals import check_folder, of_points
from experiments.sweep.settings import with_settings
from experiments.system import code_copy, environment, interruption
from experiments.system.claims import claimed, log_event, noting_interruption
from experiments.system.command import exit_codes
from experiments.system.credentials import cut, refuse_credentials
from experiments.system.disk import remove_leftovers, write_text_atomically
from experiments.system.json_files import parse_json
from experiments.system.regular_files import read_regular_text
from experiments.system.text_table import aligned, duration

_HYDRA = {
    "output_subdir": None,  # a run's own folder holds its config; Hydra writes nothing
    "run": {"dir": "."},
    "sweep": {"dir": ".", "subdir": "."},
}
# Hydra's default takes the same commas, and writes multirun.yaml before a point is checked
_ALSO = {"points": ("basic",)}


class OwnApp(App[OwnPoint]):
    """Base class of an app in one Python file. `run` has to be written; all else has a default.

    sources: further files beside it, .py or .yaml, that its runs import or read. A sweep keeps a
    copy of these, so that an edit does not change a run that waits. save_seconds: between
    checkpoints.
    """

    unit: ClassVar[str] = "steps"
    sources: ClassVar[tuple[str, ...]] = ()
    save_seconds: ClassVar[float] = 30.0

    # What an app writes

    @abstractmethod
    def run(self, run: Run) -> Mapping[str, Any]:
        """One run, from its last checkpoint (run.saved) on. Returns its values: numbers and texts,
        of which the first number is what tables show. A value that is not finite: it diverged.
        """

    def check(self, config: Raw) -> None:
        """Raises ValueError for a config that can't be run: name, value, rule and remedy."""

    def size(self, config: Raw) -> Size:
        return Size()

    def label(self, config: Raw) -> str:
        """A run in a few words, the seed last; what runs of one name differ in is added."""
        seed = f" seed={config['seed']}" if "seed" in config else ""
        return f"{type(self).__name__.lower()}{seed}"

    def identity(self, config: Raw) -> Mapping[str, Any]:
        """Part of a config that can change the result: all but the engine's keys."""
        return {key: value for key, value in config.items() if key not in ENGINE}

    def prepare_data(self, configs: Sequence[Raw]) -> None:
        """Fetches or makes, once and before any run starts, all that they need."""

    # The command

    @classmethod
    def main(cls, config_path: str = "conf", config_name: str = "config") -> None:
        """App's command. config_path: the folder of its yaml files, from its own file. The
        primary one begins with `defaults: [engine, _self_]`, and chooses launcher and sweeper.
        """
        import hydra
        from hydra.core.config_store import ConfigStore
        from hydra.core.plugins import Plugins
        from omegaconf import DictConfig, OmegaConf

        from experiments.config.hydra_version import REPLACES, VERSION_BASE

        app = cls()
        introduce(app.place, app)
        Plugins.instance()  # Hydra's own choices first: what follows replaces one
        store = ConfigStore.instance()
        hydras = {**_HYDRA, "job": {"name": app.file.stem}}
        store.store(name="engine", node={**ENGINE, "hydra": hydras}, **REPLACES)
        for group in ("hydra/launcher", "hydra/sweeper"):
            for path in sorted((conf_dir() / group).glob("*.yaml")):
                node = OmegaConf.create(read_regular_text(path))
                for name in (path.stem, *_ALSO.get(path.stem, ())):
                    store.store(group=group, name=name, node=node, **REPLACES)

        @of_app(app.place)
        def task(config: Any) -> float | None:
            from hydra.core.hydra_config import HydraConfig

            from experiments.config.composed import resolve
            from experiments.config.hydra_settings import check_folders
            from experiments.sweep.one_run import run_one

            with exit_codes():
                check_folders(HydraConfig.get())
                composed = OmegaConf.merge({"hydra": HydraConfig.get()}, config)
                assert isinstance(composed, DictConfig)
                with late.kept(late.known(composed.hydra)):
                    raw = resolve(composed)
                return run_one(raw, place=app.place)
            raise AssertionError("exit_codes lets every error out")

        os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing them
        folder = str((app.file.parent / config_path).resolve())
        with exit_codes():
            refuse_credentials("the command line", sys.argv[1:])
            hydra.main(config_path=folder, config_name=config_name, **VERSION_BASE)(task)()

    @property
    def file(self) -> Path:
        return Path(str(sys.modules[type(self).__module__].__file__)).resolve()

    @property
    def place(self) -> str:
        return f"{self.file.stem}:{type(self).__name__}"

    @property
    def repository(self) -> Path:
        in_copy = self.file.parents[2].name == code_copy.FOLDER
        return environment.PACKAGE if in_copy else self.file.parent

    # What the engine asks

    def plan(self, raws: Sequence[Raw], *, stored: bool) -> list[OwnPoint]:
        points: list[OwnPoint] = []
        bad: list[tuple[Raw, ValueError]] = []
        for raw in counted(raws, len(raws), "planning"):
            try:
                points.append(self._point(raw))
            except ValueError as error:
                bad.append((raw, error))
        if bad:
            raise ValueError(of_points(bad, len(raws), self._named))
        if points:
            check_folder(points[0].sweep_dir, points[0].handling.sweep)
        seen: dict[str, OwnPoint] = {}
        for point in points:
            before = seen.setdefault(point.run_id, point)
            if before is not point:
                raise ValueError(
                    f"two points of the sweep are one run, {point.run_id} ({point.describe()}); "
                    "what they differ in is no part of a run's identity: leave one of them out"
                )
        return with_settings(points)

    def run_id(self, raw: Raw) -> str:
        own = {**self.identity(plain_config(raw)), "seed": raw.get("seed")}
        try:
            text = json.dumps([self.place, own], sort_keys=True, separators=(",", ":"))
        except TypeError as error:
            raise ValueError(
                f"{self.place}.identity has what no JSON is ({error}); give numbers, texts, lists "
                "and mappings of them"
            ) from None
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def plan_text(self, points: Sequence[OwnPoint]) -> str:
        rows = [("run", "steps", self.unit)]
        rows += [(p.describe(), str(p.n_steps), f"{p.own_work:.3g}") for p in points]
        n_columns = 2 if self.unit == "steps" else 3
        total, s = sum(point.own_work for point in points), "s" if len(points) > 1 else ""
        lines = aligned([row[:n_columns] for row in rows], n_left=1)
        return "\n".join([*lines, "", f"{len(points)} run{s}, {total:.3g} {self.unit}"])

    def is_plain(self, raw: Raw) -> bool:
        return True

    def relocatable(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        return {**plain_config(raw), "paths": {}}

    def located(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        name, results = now_called(raw, sweep_dir)
        return {**ENGINE, **raw, "sweep": name, "paths": {"results": str(results)}}

    def prepare(self, points: Sequence[OwnPoint]) -> None:
        self.prepare_data([point.raw for point in points])

    def execute(
        self,
        point: OwnPoint,
        progress: Progress = lambda row: None,
        n_threads: int | None = None,
        on_stall: Callable[[str], object] = lambda why: None,
    ) -> Record:
        with claimed(point.run_dir) as claim:
            ended = ended_any_record(point.run_dir, aside=True)
            if ended is not None:
                return ended
            remove_leftovers(point.run_dir)
            log_event(point.run_dir, "started")

            with noting_interruption(claim):
                run = Run(point, claim, progress, n_threads, self.save_seconds)
                try:
                    record = self._recorded(point, run)
                finally:
                    run.close()
            claim.check()
            write_record(point.run_dir, record)
            log_event(point.run_dir, record.status)
            return record

    def ended_text(self, record: Record) -> str:
        assert isinstance(record, AppRecord)
        values = "  ".join(
            f"{name} {value:.6g}" if type(value) is float else f"{name} {value}"
            for name, value in record.values.items()
        )
        return f"{values}  in {duration(record.wall_seconds or 0)}"

    def files(self) -> list[tuple[str, Path]]:
        names = (self.file.name, *self.sources)
        for name in names:
            path = self.file.parent / name
            if path.suffix not in (".py", ".yaml") or ".." in Path(name).parts:
                raise ValueError(f"sources: {name} must be a .py or .yaml file beside the app's")
            if not path.is_file():
                raise ValueError(f"sources: {path} is not there; correct the name")
        return [(name, self.file.parent / name) for name in names]

    def _point(self, raw: Raw) -> OwnPoint:
        config = plain_config(raw)
        refuse_credentials("the config", config)
        check_engine(config)
        try:
            self.check(config)
            size, label, run_id = self.size(config), self.label(config), self.run_id(config)
        except KeyError as error:
            raise ValueError(
                f"{error} is not in the config, and {self.place} reads it; add it to the app's "
                "yaml. If this is a sweep's stored config, the app has changed since: give its own "
                "command again"
            ) from None
        if size.n_steps < 1:
            raise ValueError(f"n_steps={size.n_steps} must be at least 1")
        return OwnPoint(raw=config, run_id=run_id, place=self.place, size=size, label=label)

    def _named(self, raw: Raw) -> str:
        try:
            return self.label(raw)
        except Exception:  # of a bad config
            return type(self).__name__

    def _returned(self, run: Run) -> Mapping[str, Any]:
        try:
            return self.run(run)
        except ValueError as error:
            if str(error) != "HydraConfig was not set":
                raise
            raise RuntimeError(
                "a point has HydraConfig where its app's file imports it at the top: do so, or ask "
                "run.folder and run.config"
            ) from error
        except SystemExit as end:  # exit codes tell a sweep something else
            raise RuntimeError(
                f"run called sys.exit({'' if end.code is None else repr(end.code)}); it has to "
                "return its values, or to raise an error"
            ) from end

    def _recorded(self, point: OwnPoint, run: Run) -> AppRecord:
        """Runs it; its record, of whatever end but an interruption."""
        begun = time.perf_counter()
        found = {
            "python": sys.version.partition(" ")[0],
            "packages": environment.installed_packages(),
            "host": socket.gethostname(),
            **environment.git_state(self.repository),
        }
        values: Mapping[str, Any] = {}
        status, error = "failed", None
        started = datetime.now(UTC).isoformat(timespec="seconds")
        config = json.dumps(dict(point.raw), indent=1) + "\n"  # JSON is YAML
        write_text_atomically(point.run_dir / "config.yaml", config)
        try:
            name = self.file.stem
            hydras = late.job_of_hydra(name, point.run_dir)
            with interruption.deferred(), log_lines(), hydras:
                values = _checked(self._returned(run))
            status = "done" if all(map(_is_finite, values.values())) else "diverged"
        except KeyboardInterrupt:
            raise
        except BaseException:  # asyncio's CancelledError too
            error = cut(traceback.format_exc())
        return AppRecord(
            run_id=point.run_id,
            sweep=point.handling.sweep,
            status=status,
            app=self.place,
            label=point.describe(),
            n_steps=run.n_steps if status != "done" else point.n_steps,
            planned_steps=point.n_steps,
            own_work=point.own_work,
            unit=self.unit,
            values=dict(values) if status == "done" else {},
            error=error,
            wall_seconds=time.perf_counter() - begun,
            started=started,
            environment=found,
            config={key: value for key, value in point.raw.items() if key not in ENGINE},
        )


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values as a record has them. Raises TypeError or ValueError for one that no record
    holds.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"run returned {type(values).__name__}, and must return a mapping")
    plain = {}
    for name, value in values.items():
        item = value.item() if hasattr(value, "item") else value  # of numpy
        if not isinstance(item, int | float | str | None):
            raise TypeError(f"run returned {name} of {type(value).__name__}: numbers and texts go")
        plain[str(name)] = item
    try:
        parse_json(json.dumps(plain))
    except ValueError as error:  # a record that can't be read is none
        raise ValueError(f"run returned what no record holds: {error}") from None
    return plain


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or abs(value) < float("inf")
