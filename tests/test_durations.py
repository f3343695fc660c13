"""Recorded durations name tests that are there, and are made of what was noted."""

import json
import re

from tests import durations
from tests.conftest import REPOSITORY


def test_it_names_tests_that_are_there():
    names = durations.read()
    assert len(names) > 1000
    texts = {name.partition("::")[0] for name in names}
    for file in sorted(texts):
        found = re.findall(r"^def (test_\w+)", (REPOSITORY / file).read_text(), re.MULTILINE)
        listed = {name.partition("::")[2] for name in names if name.startswith(f"{file}::")}
        assert listed <= set(found), f"make durations: {file} has no {listed - set(found)}"


def test_what_is_noted_is_shared_out_and_written(tmp_path, monkeypatch):
    """A fixture of 3 s by three tests, one of which ran on two values; one was not run."""
    file = tmp_path / "durations.txt"
    file.write_text("tests/a.py\n 9.00 test_gone_by\n 2.00 test_kept\n")
    monkeypatch.setattr(durations, "FILE", file)
    notes = [
        ["tests/a.py::test_gone_by", 0.01, {}],
        ["tests/b.py::test_two", 0.2, {"f": 3.0}],
        ["tests/b.py::test_two", 0.4, {"f": 3.0}],
        ["tests/b.py::test_one", 0.0, {"f": 3.0}],
    ]
    for i, rows in enumerate((notes[:2], notes[2:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"durations-gw{i}.part").write_text(lines)
    durations.write(tmp_path)
    assert file.read_text() == (
        "tests/a.py\n 2.00 test_kept\ntests/b.py\n 1.00 test_one\n 1.30 test_two\n"
    )


def test_the_day_has_cases_from_all_over_a_test_or_none():
    assert durations.spread(100, 0.5) == {0, 25, 50, 75}
    assert durations.spread(3, 0.5) == {0, 1, 2}
    assert durations.spread(3, 1.9) == {0}
    assert durations.spread(3, 2.1) == set()
    assert durations.spread(3, 60.0, kept=True) == {0, 1, 2}


def test_what_the_day_keeps_would_be_the_nights():
    known = durations.read()
    assert all(known[name] >= durations.LONG for name in durations.KEPT)
    assert all(reason for reason in durations.KEPT.values())


def test_slow_and_long_ones_are_marked(request):
    """This test is neither; the session's others are what the file says."""
    known = durations.read()
    for item in request.session.items:
        seconds = known.get(item.nodeid.partition("[")[0], 0.0)
        marks = {mark.name for mark in item.iter_markers()}
        assert ("long" in marks) >= (seconds >= durations.LONG)
        assert ("slow" in marks) >= (seconds >= durations.SLOW)
