"""A `_target_` that is read from a file imports nothing that the user has not named."""

import importlib
import sys
from pathlib import Path

import pytest

from experiments.adapters.lora_files import read_lora
from experiments.config import trust
from experiments.config.reading import build
from experiments.evaluate import evaluate_run
from experiments.export import export_run
from experiments.finished.model import read_finished
from experiments.finished.texts import read_adapter, read_base, read_sets
from experiments.language.app import APP
from experiments.points.planning import make_point
from experiments.sweep.restore import read_raws
from tests.conftest import TINY
from tests.security.strangers import (
    RUN_ID,
    plant_config,
    plant_manifest,
    plant_run,
    record_of,
    with_target,
)

CLASS = """
import dataclasses, pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    n: int = 3
    def documents(self, split, cache):
        return iter(["a text"] * self.n)
"""
MODEL = ("model",)
OTHERS = (("data", "corpus"), ("data", "tokenizer"), ("trunk", "base_ffn"))


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """Name of a class whose module leaves a file when it is imported, and that file."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(trust.VARIABLE, "tests.conftest")
    name = f"payload_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CLASS)
    importlib.invalidate_caches()
    yield f"{name}.Mine", tmp_path / f"{name}.ran"
    sys.modules.pop(name, None)


@pytest.fixture
def raw(compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    return compose_raw("size=1", "budget=2e9", *TINY, *paths)


def init_run(run_dir: Path, compose_raw) -> None:
    make_point(compose_raw("init=run", f"init.path={run_dir}", "budget=2e9"))


READERS = {
    "evaluate": lambda run, _: evaluate_run(run, ["eval=[validation]"]),
    "export": lambda run, _: export_run(run, run.parent / "out"),
    "generate": lambda run, _: read_finished(run),
    "init=run": init_run,
    "library make": lambda run, _: read_lora(run),
    "library route": lambda run, _: read_base(run, []),
    "library compare": lambda run, _: read_adapter(run, [], n_fit=1, n_held_out=1),
    "sets": lambda run, _: read_sets(run, ["eval=[validation]"], 1),
}


@pytest.mark.parametrize(
    ("reader", "place"), [*((r, MODEL) for r in READERS), *(("generate", p) for p in OTHERS)]
)
def test_a_record_s_class_is_not_imported(reader, place, payload, raw, compose_raw, tmp_path):
    name, ran = payload
    with_target(place, name)(raw)
    run_dir = plant_run(tmp_path / "stranger", raw)
    with pytest.raises(ValueError, match=rf"{name}' is in a file.*set {trust.VARIABLE}={name}"):
        READERS[reader](run_dir, compose_raw)
    assert not ran.exists()


@pytest.mark.parametrize("place", [MODEL, *OTHERS, ("optim",), ()], ids="/".join)
@pytest.mark.parametrize("where", ["manifest", "config"])
def test_a_sweep_s_class_is_not_imported(where, place, payload, raw, tmp_path, capsys):
    """`retry`, of a line of the manifest, or where a run's line is lost of its config.yaml."""
    name, ran = payload
    with_target(place, name)(raw)
    if where == "manifest":
        plant_manifest(tmp_path / "s", raw)
    else:
        plant_manifest(tmp_path / "s", {}, run_id="other")
        plant_config(tmp_path / "s", raw)
    with pytest.raises(ValueError, match="no point that can be run"):
        read_raws(APP, tmp_path / "s")
    assert RUN_ID in capsys.readouterr().err
    assert not ran.exists()


ALIASES = "a: &a [x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(9 * [f'*{chr(97 + i)}'])}]\n" for i in range(20)
)


@pytest.mark.parametrize("text", [ALIASES, "- a\n", "a: " + "[" * 5000, "a: [", "x", ""])
def test_odd_yaml_is_one_line(text, tmp_path, capsys):
    plant_manifest(tmp_path / "s", {}, run_id="other")
    plant_config(tmp_path / "s", {})
    (tmp_path / "s" / RUN_ID / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="no point that can be run"):
        read_raws(APP, tmp_path / "s")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert RUN_ID in said[1]


def test_inner_classes_are_not_imported_either(payload, raw, tmp_path):
    name, ran = payload
    parent = "experiments.init.parent_tokenizer.ParentTokenizer"
    raw["data"]["tokenizer"] = {
        "_target_": parent, "tokenizer": {"_target_": name}, "corpus": {"_target_": name},
    }  # fmt: skip
    with pytest.raises(ValueError, match="is in a file"):
        read_finished(plant_run(tmp_path / "stranger", raw))
    stream = {"_target_": "experiments.data.stream.DomainStream", "base": {"_target_": name}}
    with pytest.raises(ValueError, match="is in a file"):
        build({**stream, "domains": {}, "order": []}, "data.corpus")
    assert not ran.exists()


@pytest.mark.parametrize(
    "name", ["os", "", ".", "os.", ".os.system", "os..system", "a b.C", "os.system\n", None, 3, {}]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="is no name of a class"):
        build({"_target_": name}, "model")


@pytest.mark.parametrize(
    "name", ["os.system", "experiments_evil.X", "experiment.X", "tests.Y", "tests.conftests.Y"]
)
def test_names_that_nobody_gave(name, monkeypatch):
    monkeypatch.setenv(trust.VARIABLE, "tests.conftest")
    assert not trust.is_trusted(name)
    with pytest.raises(ValueError, match="is in a file"):
        build({"_target_": name}, "model")


def test_the_variable_names_classes_modules_and_packages(payload, monkeypatch):
    name, ran = payload
    module = name.partition(".")[0]
    for given in (name, module, f"other, {module}", f"a.b,{name}"):
        monkeypatch.setenv(trust.VARIABLE, given)
        assert trust.is_trusted(name)
    monkeypatch.setenv(trust.VARIABLE, f"{name}s,{module}s,{module[:-1]}")
    assert not trust.is_trusted(name)
    assert not ran.exists()
    monkeypatch.setenv(trust.VARIABLE, module)
    assert build({"_target_": name, "n": 2}, "data.corpus", ("documents",)).n == 2
    assert ran.exists()


def test_the_command_line_and_conf_name_classes(payload, monkeypatch, tmp_path):
    name, _ = payload
    trust.trust_composed({"data": {"corpus": {"_target_": name}, "sets": [{"_target_": "a.B"}]}})
    assert trust.is_trusted(name)
    assert trust.is_trusted("a.B")
    assert not trust.is_trusted("a.C")
    (tmp_path / "conf" / "model").mkdir(parents=True)
    text = "# _target_: not.Given\nx: {_target_: lab.One}\n_target_: 'lab.Two'  # _target_: no.No\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(text)
    monkeypatch.setattr(trust, "conf_dir", lambda: tmp_path / "conf")
    found = [n for n in ("lab.One", "lab.Two", "not.Given", "no.No") if trust.is_trusted(n)]
    assert found == ["lab.One", "lab.Two"]


def test_a_class_of_one_s_own_is_read_back_from_a_record(raw, tmp_path, monkeypatch):
    """tests.conftest.Nursery, as a run of the command line has it."""
    run_dir = plant_run(tmp_path / "mine", raw)
    monkeypatch.setenv(trust.VARIABLE, "tests.conftest.Nursery")
    with pytest.raises(ValueError, match=r"last\.ckpt"):  # all else is read
        read_finished(run_dir)
    assert record_of(raw).config["data"]["corpus"]["_target_"] == "tests.conftest.Nursery"
