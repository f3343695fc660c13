"""JSON of strangers: bounded, and refused in one line."""

import json

import pytest

from experiments.system import json_files
from experiments.system.json_files import parse_json, read_json


def nested(levels: int) -> str:
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_what_is_read_is_what_json_reads(tmp_path):
    values = {"a": [1, 2.5, None, {"b": "{[" * 100}], "c": [[]] * 100}
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert read_json(tmp_path / "x.json") == values
    assert parse_json(json.dumps(values).encode()) == values
    assert parse_json("[1]", object) == [1]


@pytest.mark.parametrize("levels", [2, 49, 50, 51, 200, 5_000, 200_000])
def test_depth_is_bounded(levels):
    for text in (nested(levels), nested(levels).encode()):
        if levels <= 50:
            assert parse_json(text)
        else:
            with pytest.raises(ValueError, match="nested deeper than 50 levels"):
                parse_json(text)


def test_many_shallow_lists_are_not_deep():
    assert len(parse_json(json.dumps({"a": [[i] for i in range(1000)]}))["a"]) == 1000


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', "\ud800", b"\xff\xfe", b"\x00", '{"a": 1} 2']
)
def test_what_is_no_object_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "LARGEST", 2**20)
    (tmp_path / "x.json").write_text(json.dumps({"a": "b" * 2**20}))
    with pytest.raises(ValueError, match="and 1,048,576 are the most"):
        read_json(tmp_path / "x.json")
    with pytest.raises(OSError, match="No such file"):
        read_json(tmp_path / "y.json")
