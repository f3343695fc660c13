"""`generate`, `evaluate`, `export` and `library` say what is typed wrong in one line, and write
nothing.
"""

import io
import sys
from collections import Counter
from dataclasses import replace

import pytest

from experiments import evaluate, export, generate, library
from experiments.adapters import lora_library, read_lora, save_library
from experiments.records.files import read_record, write_record
from tests import odd_input
from tests.adapters.test_library_command import made  # noqa: F401  # a fixture
from tests.conftest import REPOSITORY

DOORS = {"generate": generate, "evaluate": evaluate, "export": export, "library": library}
ROWS = odd_input.rows(REPOSITORY / "tests" / "odd_doors.txt")


@pytest.fixture(scope="module")
def places(made, tmp_path_factory):  # noqa: F811
    """Where the words in braces are."""
    base, runs, cache = made
    top = tmp_path_factory.mktemp("typed")
    for name, content in (
        ("text.txt", b"x"), ("full/thesis.txt", b"all of it"), ("braces.json", b"{}"),
        ("empty.jsonl", b""), ("torn.jsonl", b"\xff\n"), ("list.jsonl", b"[1]\n"),
        ("braces.jsonl", b"{}\n"), ("badlib/library.json", b"{}"), ("listlib/library.json", b"[1]"),
        ("adapter/adapter_config.json", b"{}"),
    ):  # fmt: skip
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(content)
    record = read_record(base / "record.json")
    how = {"diverged": {"status": "diverged"}, "blind": {"causal_eval": False}, "open": {}}
    for name, values in how.items():
        (top / name).mkdir()
        write_record(top / name, replace(record, **values))
        if name != "open":
            (top / name / "last.ckpt").write_bytes(b"never read")
    save_library(
        lora_library(read_lora(runs[name], name) for name in ("sea", "farm")), top / "kept"
    )
    return {
        "run": base,
        **runs,
        "cache": cache,
        "top": top,
        "new": top / "new",
        "lib": top / "kept",
    }


@pytest.mark.parametrize(("words", "part"), ROWS)
def test_an_odd_word_is_refused_in_one_line(command, places, monkeypatch, words, part):
    def files():
        return {(path, path.stat().st_mtime_ns) for path in places["top"].rglob("*")}

    before = files()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    door, *rest = (word.format(**places) for word in words)
    code, out, err = command(DOORS[door], *rest)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert part in err
    assert files() == before


def test_each_door_has_thirty_rows():
    assert min(Counter(row.values[0][0] for row in ROWS).values()) >= 30
