"""What every test may use: composed configs, a small corpus of its own, and the real one."""

import copy
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Both are read when torch is imported, here and in child processes. Threads that spin while they
# wait for each other take a busy machine's cores from those that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# corpora of the tests, in records and manifests
os.environ.setdefault("EXPERIMENTS_TRUST", "tests.conftest,tests.training.domains")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hydra import compose
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

if not torch.cuda.is_available():  # read when triton is imported, which lightning does
    os.environ.setdefault("TRITON_INTERPRET", "1")

from experiments.config.composed import resolve
from experiments.config.composition import is_choice
from experiments.config.hydra_version import composing
from experiments.config.overriding import apply
from experiments.points import planning, point
from experiments.records.files import read_record
from experiments.run import main
from experiments.system import environment
from tests.chromium import NAMES, Browser, find_chromium
from tests.durations import (  # noqa: F401  (hooks)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
)

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = (  # overrides for a model that trains in a second, on the nursery
    "ladder.d_per_layer=16",
    "ladder.d_head=16",
    "ladder.seq_len=32",
    "ladder.batch_size=4",
    "ladder.vocab_size=270",
    "data.n_eval_tokens=320",
    "data.corpus._target_=tests.conftest.Nursery",
    "~data.corpus.requirement",
    "~data.corpus.sha256",
    "logger=csv",
    "trainer.n_threads=1",
)
SMALL_PEER = ("model=peer", "n_experts=64", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "seven", "dogs", "ran", "past", "it")


@dataclass(frozen=True, kw_only=True)
class Nursery:
    """A corpus made of a dozen words: enough to train a vocabulary and to pack."""

    n_documents: int = 200

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        for i in range(self.n_documents if split == "train" else 20):
            yield " ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(40)) + " .\n"


class Killed(BaseException):
    """Not an Exception: nothing in the run may catch it, as nothing catches kill -9."""


def kill_at(step: int) -> Callable[[dict[str, float]], None]:
    """A progress sink that ends the run at a step."""

    def die(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed

    return die


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    """Its seed."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of state that is not the user's own: the key of signatures is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _measured_once() -> Iterator[None]:
    """What each run takes a fifth of a second for, and is the same for all of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((point, "measured_peak_flops"), (environment, "installed_packages")):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _yaml_read_once() -> Iterator[None]:
    """Each file of conf/ is read once in this process, and not for each config that it is part of.

    What is not there is looked for again: a test may write it.
    """
    load, loaded = ConfigRepository.load_config, {}

    def cached(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = (tuple(source.path for source in self.sources), config_path)
        found = loaded.get(key) or load(self, config_path)
        if found is not None:
            loaded[key] = found
        return copy.deepcopy(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", cached)
        yield


@pytest.fixture(scope="module")
def hub_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No hub; code that folders bring is copied to a place of its own, and forgotten afterwards.

    Modules that stayed would lead the next test of this process to the place of this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        place = str(tmp_path_factory.mktemp("modules"))
        for module in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
            patch.setattr(f"{module}.HF_MODULES_CACHE", place, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("sys.path", [*sys.path])
        yield
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser; tests that need it skip where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is here: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@functools.cache
def _of_choices(choices: tuple[str, ...], cache: str | None) -> DictConfig:
    return compose("config", list(choices), return_hydra_config=True)


@functools.cache
def _composed(overrides: tuple[str, ...], cache: str | None) -> dict[str, Any]:
    """Choices of groups are composed once, and values laid over them, as for a sweep's points."""
    with composing():
        loader = GlobalHydra.instance().config_loader()
        given = OverridesParser.create().parse_overrides(list(overrides))
        values = [o for o in given if not is_choice(loader, o)]
        choices = tuple(o.input_line or "" for o in given if o not in values)
        config = copy.deepcopy(_of_choices(choices, cache))
        apply(values, config)
        return resolve(config)


@pytest.fixture(scope="session")
def compose_raw() -> Callable[..., dict[str, Any]]:
    """compose_raw("model=peer", ...): the resolved config that those overrides give.

    Hydra takes 0.1 s for what many tests ask alike: it is asked once for each set of choices.
    """

    def make(*overrides: str) -> dict[str, Any]:
        others = tuple(o for o in overrides if not o.startswith("paths."))
        raw = copy.deepcopy(_composed(others, os.environ.get("EXPERIMENTS_CACHE")))
        paths = (o.removeprefix("paths.").split("=", 1) for o in overrides if o not in others)
        raw["paths"].update(paths)
        return raw

    return make


@pytest.fixture(scope="session")
def cache() -> Path:
    """Data cache that runs use too: the real text is fetched once."""
    return Path(os.environ.get("EXPERIMENTS_CACHE", REPOSITORY / ".cache")).resolve()


def python(*words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Python with these words, to its end; what it prints is text."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


def run_cache(run_dir: Path) -> str:
    """Override that names the cache of a run."""
    return f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"


@pytest.fixture(scope="session")
def trained(
    compose_raw: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """trained("model=peer", ...): the folder of a finished tiny run, which no test may change. It
    is trained once for all that ask for the same.
    """

    @functools.cache
    def train(*overrides: str) -> Path:
        from experiments.training.execute import execute

        top = tmp_path_factory.mktemp("trained")
        paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
        made = planning.make_point(compose_raw("size=2", "budget=2e9", *TINY, *overrides, *paths))
        assert execute(made).status == "done"
        return made.run_dir

    return train


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """command(module, word, ...): the exit code, stdout and stderr of its main()."""

    def call(module: Any, *words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        code: Any = 0
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """programs(sbatch="echo 28", ...): the folder of these shell scripts, which commands find
    before the machine's programs.
    """
    folder = tmp_path / "bin"

    def put(**scripts: str) -> Path:
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return folder

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return put


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """run("model=peer", ...): the command in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["experiments.run", *arguments])
        GlobalHydra.instance().clear()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, re.sub(r"composing: .*\n", "", err)  # which a slow machine shows

    return call
