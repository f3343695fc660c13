"""Local format: what it reads, and what it refuses in one line."""

import json

import pytest

from experiments.config.paths import conf_dir
from experiments.tasks.items import Item, committed_tasks, find_task, read_task


def write(folder, *lines):
    path = folder / "task.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_reads_choices_and_answers(tmp_path):
    choice = {"context": "The sky is ", "choices": ["wooden", "blue"], "answer": 1}
    answer = {"context": "", "answer": "Café"}
    task = read_task(write(tmp_path, choice, "", answer, ""))
    assert task.name == "task"
    assert task.items == (
        Item(line=1, context="The sky is ", choices=("wooden", "blue"), right=1),
        Item(line=3, context="", choices=("Café",), right=0),
    )
    assert [item.is_choice for item in task.items] == [True, False]
    assert task.items[0].pairs == [("The sky is ", "wooden"), ("The sky is ", "blue")]


GOOD = {"context": "a", "choices": ["b", "c"], "answer": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: not JSON \(Expecting"),
        ("[1, 2]", r"line 2: \[1, 2\] is not an object; an item is \{\"context\""),
        ({**GOOD, "anwser": 1}, "line 2: unknown key 'anwser'"),
        ({"choices": ["b", "c"], "answer": 0}, "line 2: no context"),
        ({"context": "a", "choices": ["b", "c"]}, "line 2: no answer"),
        ({**GOOD, "context": 3}, "line 2: context=3 must be a text"),
        ({**GOOD, "context": None}, "line 2: context=null must be a text"),
        ({**GOOD, "choices": []}, r"line 2: choices=\[\] must be a list of at least two texts"),
        ({**GOOD, "choices": ["b"]}, r"line 2: choices=\[\"b\"\] must be a list of at least two"),
        ({**GOOD, "choices": "bc"}, "line 2: choices=\"bc\" must be a list"),
        ({**GOOD, "choices": ["b", ""]}, r"line 2: choices\[1\] is empty"),
        ({**GOOD, "choices": ["b", 7]}, r"line 2: choices\[1\]=7 must be a text"),
        ({**GOOD, "choices": ["b", "c", "b"]}, r"choices\[2\] and choices\[0\] are equal"),
        ({**GOOD, "answer": 2}, "line 2: answer=2 must be the place .* from 0 to 1"),
        ({**GOOD, "answer": -1}, "answer=-1 must be the place"),
        ({**GOOD, "answer": True}, "answer=true must be the place"),
        ({**GOOD, "answer": "b"}, 'answer="b" must be the place'),
        ({"context": "a", "answer": 0}, "line 2: answer=0 must be a text"),
        ({"context": "a", "answer": ""}, "line 2: answer is empty"),
        ('{"context": "\\ud800", "answer": "a"}', "half a surrogate pair"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)  # fmt: skip
def test_refuses_a_line_and_names_it(tmp_path, line, message):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(ValueError, match=message) as error:
        read_task(path)
    assert str(error.value).startswith(f"{path}, line 2")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_refuses_files_that_are_none(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match=r"task.jsonl has no item; write one a line"):
        read_task(path)
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"context": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"task.jsonl, line 2: not UTF-8"):
        read_task(path)
    with pytest.raises(ValueError, match=r"none.jsonl does not exist; name a .jsonl file"):
        find_task(str(tmp_path / "none.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"folder.jsonl is not a file"):
        find_task(str(tmp_path / "folder.jsonl"))


def test_a_name_is_a_committed_task_or_somebody_else_s():
    assert committed_tasks() == ["cloze", "grammar"]
    assert find_task("cloze") == conf_dir() / "tasks" / "cloze.jsonl"
    assert find_task("arc_easy") is None


def test_the_committed_tasks_are_items_and_no_place_is_always_right():
    tasks = [read_task(find_task(name)) for name in committed_tasks()]
    assert sum(len(task.items) for task in tasks) >= 60
    for task in tasks:
        first = sum(item.right == 0 for item in task.items) / len(task.items)
        assert 0.4 <= first <= 0.6, task.name
