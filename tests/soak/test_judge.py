"""The harness sees what it is there to see: a run altered by hand is not taken for the same."""

import csv
import json

import pytest
import torch

from tests.soak.judge import DIFFERING, DOUBLED, LEFT_OVER, LOST, fingerprint, judge

RECORD = {"run_id": "r", "status": "done", "val_loss": 5.0, "wall_seconds": 1.0, "config": {}}
ROWS = [{"step": i, "n_tokens": 32 * i, "flops": 1.0, "loss": 5.5, "lr": 0.1} for i in range(1, 5)]


def write(folder, *, record=RECORD, rows=ROWS, weight=1.0, state=0, journal=("started", "done")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record))
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(rows)
    callbacks = {"RandomState": {"torch": torch.tensor([state], dtype=torch.uint8)}}
    checkpoint = {"state_dict": {"w": torch.tensor([weight])}, "callbacks": callbacks}
    torch.save(checkpoint, folder / "last.ckpt")
    lines = [json.dumps({"event": event, "time": "now", "by": "me"}) for event in journal]
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def expected(tmp_path):
    write(tmp_path / "whole" / "r")
    return fingerprint(tmp_path / "whole" / "r")


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, set()),
        ({"record": {**RECORD, "wall_seconds": 9.0}}, set()),  # speeds and times may differ
        ({"record": {**RECORD, "val_loss": 5.0000001}}, {DIFFERING}),
        ({"record": {**RECORD, "status": "failed"}}, {LOST}),
        ({"rows": ROWS[1:]}, {DIFFERING}),
        ({"rows": [*ROWS, ROWS[-1]]}, {DIFFERING, DOUBLED}),
        ({"rows": [{**ROWS[0], "loss": 5.50}, *ROWS[1:]]}, set()),
        ({"rows": [{**ROWS[0], "loss": 5.51}, *ROWS[1:]]}, {DIFFERING}),
        ({"weight": 1.0000001}, {DIFFERING}),
        ({"state": 1}, {DIFFERING}),
        ({"journal": ("started", "done", "started", "done")}, {DOUBLED}),
        ({"journal": ("started", "done", "started")}, {DOUBLED}),
        ({"journal": ("started", "interrupted", "started", "done")}, set()),
    ],
)
def test_every_difference_is_seen(tmp_path, expected, change, kinds):
    folder = tmp_path / "again" / "r"
    write(folder, **change)
    assert {problem.kind for problem in judge(folder, expected)} == kinds


@pytest.mark.parametrize("name", ["previous.ckpt", ".config.yaml.0123abcd", "last.partial"])
def test_a_file_that_does_not_belong_there_is_seen(tmp_path, expected, name):
    folder = tmp_path / "again" / "r"
    write(folder)
    (folder / name).touch()
    assert [problem.kind for problem in judge(folder, expected)] == [LEFT_OVER]
    assert judge(folder, expected, files={name}) == []


@pytest.mark.parametrize("name", ["record.json", "last.ckpt", "history.csv"])
def test_a_missing_or_torn_file_is_a_lost_run(tmp_path, expected, name):
    for torn in (True, False):
        folder = tmp_path / f"torn-{torn}" / "r"
        write(folder)
        path = folder / name
        path.write_bytes(path.read_bytes()[:30]) if torn else path.unlink()
        kinds = {problem.kind for problem in judge(folder, expected)}
        assert kinds == ({DIFFERING} if torn and name == "history.csv" else {LOST})
