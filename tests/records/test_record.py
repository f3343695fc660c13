import dataclasses
import importlib
import json
import pickle
import random
from pathlib import Path

import pytest

from experiments.config.fields import is_unchanged, list_columns
from experiments.records.files import (
    CHECKSUM,
    DamagedError,
    find_records,
    read_outcome,
    read_record,
    set_aside,
    write_record,
)
from experiments.records.finished import ended_record
from experiments.records.record import _EARLIER_DEFAULTS, RunRecord, flat_row
from experiments.system.disk import write_text_atomically


def record(**changes):
    values = {
        "run_id": "0123456789ab",
        "sweep": "s",
        "status": "done",
        "model": "peer",
        "seed": 0,
        "budget": 1e11,
        "n_layers": 2,
        "d_model": 64,
        "n_experts": 64,
        "n_params": 1000,
        "n_active_params": 500,
        "n_non_embedding_params": 400,
        "flops_per_token": 3e3,
        "flops_shares": {"head": 1.0},
        "planned_flops": 1e11,
        "n_steps": 10,
        "batch_tokens": 512,
        "n_tokens": 5120,
        "lr": 1e-2,
        "causal_eval": True,
        "val_loss": 0.1 + 0.2,
        "perplexity": 1.35,
    }
    return RunRecord(**{**values, **changes})


def test_comes_back_as_it_was_written(tmp_path):
    path = write_record(tmp_path / "run", record())
    assert read_record(path) == record()  # at full precision
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_a_column_of_documents_is_a_line(tmp_path):
    """Whatever is nested in it, any reader of JSON reads it; indented it would be twice as long."""
    columns = {"n_tokens": [3, 5], "nats": [1.5, 2.25], "domains": []}
    odd = {"a\nb": {"c": [{"d": None}]}, "empty": {}, "3": float("inf")}
    path = write_record(tmp_path / "run", record(documents=columns, config=odd))
    lines = path.read_text().splitlines()
    assert '  "nats": [1.5, 2.25],' in lines
    assert '  "domains": []' in lines
    assert read_record(path).documents == columns
    assert json.loads("\n".join(lines))["config"] == odd


def test_only_a_failed_run_is_unfinished(tmp_path):
    for status, finished in (("done", True), ("diverged", True), ("failed", False)):
        write_record(tmp_path / status, record(status=status))
        assert (ended_record(tmp_path / status) is not None) == finished
    assert ended_record(tmp_path / "nothing") is None


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_text_atomically(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"status": "done"}', "{", "null", "[" * 100_000, "\udcff"]
)
def test_what_is_not_a_record_is_named(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        DamagedError, match=r"record\.json is damaged \(not a run record.*delete it"
    ):
        read_record(path)
    assert ended_record(tmp_path) is None


def without_checksum(path):
    return {name: value for name, value in json.loads(path.read_text()).items() if name != CHECKSUM}


def test_unknown_columns_of_a_later_version_are_passed_over(tmp_path):
    path = write_record(tmp_path, record())
    path.write_text(json.dumps({**without_checksum(path), "later": 1}))
    assert read_record(path) == record()


def test_a_record_from_before_checksums_is_believed_and_another_layout_is_not(tmp_path):
    path = write_record(tmp_path, record(error="ü"))
    text = path.read_text()
    path.write_text(json.dumps(without_checksum(path)))
    assert read_record(path) == record(error="ü")
    path.write_text(json.dumps(json.loads(text), indent=4))
    with pytest.raises(DamagedError, match="its checksum is not that of its content"):
        read_record(path)


@pytest.mark.parametrize("change", [{}, {"error": 'a\n "status": "failed",'}, {"n_tokens": 0}])
def test_the_outcome_is_the_records_own(tmp_path, change):
    """Of a text that quotes a record, too; with a checksum and without."""
    config = {"status": 1, "n_tokens": {"n_tokens": 7}}
    path = write_record(tmp_path, record(config=config, **change))
    found = read_outcome(path)
    whole = read_record(path)
    assert (found.status, found.error) == (whole.status, whole.error)
    assert found.n_steps == whole.n_tokens // whole.batch_tokens
    path.write_text(json.dumps(without_checksum(path)))
    assert read_outcome(path) == found
    path.write_bytes(write_record(tmp_path, whole).read_bytes()[:-40])
    with pytest.raises(DamagedError, match="not a run record"):
        read_outcome(path)


@pytest.mark.parametrize("change", [{"n_params": "x"}, {"error": 5}, {"n_tokens": 1.5}])
def test_an_outcome_of_another_type_is_damage_whatever_the_checksum(tmp_path, change):
    path = write_record(tmp_path, record(**change))
    with pytest.raises(DamagedError, match="has a value of another type"):
        read_outcome(path)


def test_no_flipped_bit_of_a_record_changes_what_is_read(tmp_path):
    path = write_record(tmp_path, record(config={"model": {"n_heads": 2}}))
    whole, generator = path.read_bytes(), random.Random(0)
    n_seen = 0
    for _ in range(300):
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            found = read_record(path)
        except DamagedError:
            n_seen += 1
        else:  # the flip fell into white space or into the checksum's own name
            assert found == record(config={"model": {"n_heads": 2}})
    assert n_seen > 200


@pytest.mark.parametrize(
    "change",
    [
        {"config": 3},
        {"evaluations": [1]},
        {"evaluations": {"lambada": 2.5}},
        {"flops_shares": {"head": "much"}},
        {"n_tokens": None},
        {"n_tokens": 1.5},
        {"n_steps": True},
        {"batch_tokens": 0},
        {"val_loss": "low"},
        {"status": "fine"},
        {"seed": "0"},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_damage(tmp_path, change):
    path = write_record(tmp_path, record())
    path.write_text(json.dumps({**without_checksum(path), **change}))
    with pytest.raises(DamagedError, match=next(iter(change))):
        read_record(path)


def test_a_folder_in_the_place_of_a_record_is_named(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(DamagedError, match=r"record.json is damaged \(it can't be read: Is a dir"):
        read_record(tmp_path / "record.json")


def test_the_error_of_a_damaged_file_goes_to_other_processes():
    error = pickle.loads(pickle.dumps(DamagedError(Path("a"), "torn", "delete it")))
    assert (error.path, error.why, error.remedy) == (Path("a"), "torn", "delete it")
    assert str(error) == "a is damaged (torn); delete it"


def test_damaged_files_set_aside_are_all_kept(tmp_path):
    path = tmp_path / "record.json"
    for text in "abc":
        path.write_text(text)
        set_aside(path)
    kept = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert kept == {
        "record.json.damaged": "a", "record.json.damaged-2": "b", "record.json.damaged-3": "c"
    }  # fmt: skip


def test_refuses_a_status_of_its_own():
    with pytest.raises(ValueError, match="status='fine' is not one of done, failed, diverged"):
        record(status="fine")


def test_finds_records_in_order(tmp_path):
    for name in ("b", "a"):
        write_record(tmp_path / "sweep" / name, record())
    assert [p.parent.name for p in find_records(tmp_path)] == ["a", "b"]


def test_a_flat_row_has_the_layer_and_named_nested_values():
    row = flat_row(
        record(
            config={"model": {"_target_": "a.PEERConfig", "n_heads": 2, "output_gate": False}},
            flops_shares={"head": 0.25},
            evaluations={"lambada": {"loss": 4.5}},
        )
    )
    assert [name for name in row if name.startswith("layer.")] == ["layer.n_heads"]
    assert (row["share.head"], row["lambada.loss"]) == (0.25, 4.5)
    assert not {"config", "environment", "flops_shares", "evaluations"} & set(row)
    new = record(config={"model": {"n_heads": 2}}, layer={"n_experts": 4, "mix": {"sizes": [1, 2]}})
    assert {k: v for k, v in flat_row(new).items() if "layer." in k} == {
        "layer.mix.sizes": "[1, 2]"
    }


@pytest.mark.parametrize(("kind", "defaults"), _EARLIER_DEFAULTS.items())
def test_earlier_defaults_are_those_of_the_layers(kind, defaults):
    """So a record from before `layer` has the columns that one of the same run has now."""
    file = {"MoEConfig": "moe", "UltraMemConfig": "ultramem"}.get(kind, kind[:-6].lower())
    config = getattr(importlib.import_module(f"experiments.models.ffn.{file}"), kind)()
    later = {f.name: f.default for f in dataclasses.fields(config) if is_unchanged(f, f.default)}
    assert {name: value for name, value in later.items() if value is not None} == defaults
    before = {"_target_": f"x.{kind}", **dataclasses.asdict(config)}
    now, then = (
        {k: v for k, v in flat_row(run).items() if k.startswith("layer.") and v is not None}
        for run in (record(layer=list_columns(config)), record(config={"model": before}))
    )
    assert now == then


def test_a_right_checksum_proves_no_types(tmp_path):
    """Anybody can compute it: a stranger's record is held to its columns all the same."""
    path = write_record(tmp_path / "run", record(n_layers=2))
    for changes in (
        {"budget": "x"},
        {"seed": 2**63},
        {"model": 3},
        {"n_params": True},
        {"init": []},
        {"config": "x"},
        {"environment": 1.5},
        {"error": {}},
        {"stages": {}},
    ):
        write_record(tmp_path / "run", record(**changes))
        with pytest.raises(DamagedError, match="has a value of another type"):
            read_record(path)
    write_record(tmp_path / "run", record(config={"size": 10**50}))
    with pytest.raises(DamagedError, match="a number of 51 digits"):
        read_record(path)
    write_record(tmp_path / "run", record(planned_flops=10**20, val_loss=float("nan")))
    assert read_record(path).planned_flops == 10**20
