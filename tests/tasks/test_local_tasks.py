"""A local task's numbers, by hand, and in a run's record."""

import json
import math
import shutil

import pytest

from experiments import evaluate
from experiments.evaluate import evaluate_run
from experiments.records.files import read_record
from experiments.tasks.items import Item, read_task
from experiments.tasks.local import numbers
from experiments.tasks.scoring import Scored
from experiments.tasks.table import tasks_table
from tests.conftest import run_cache

LN2 = math.log(2)


def test_the_numbers_by_hand():
    """Nats: item 1 is right as it is (-6 over -8) and wrong a character (-2 under -1.6); item 2,
    of three characters and six bytes, is right a byte alone; item 3 is an answer.
    """
    items = [
        Item(line=1, context="x ", choices=("abc", "abcde"), right=0),
        Item(line=2, context="", choices=("aaaa", "ééé"), right=1),
        Item(line=3, context="x", choices=(" yes",), right=0),
    ]
    scored = [
        Scored(-6.0, False), Scored(-8.0, False),
        Scored(-4.0, True), Scored(-5.0, False),
        Scored(-1.0, True),
    ]  # fmt: skip
    found = numbers(items, scored)
    assert (found["acc"], found["acc_norm"], found["acc_bytes"]) == (0.5, 0.0, 0.5)
    assert found["acc_stderr"] == pytest.approx(0.5)  # sqrt(0.5 / 2)
    assert found["acc_norm_stderr"] == 0.0
    assert found["greedy"] == pytest.approx(1 / 3)
    assert (found["n_items"], found["n_choice_items"]) == (3, 2)
    assert found["n_bytes"] == len(" abc") + 6 + len(" yes")
    assert found["bits_per_byte"] == pytest.approx((6 + 5 + 1) / LN2 / 14)


def test_of_equal_choices_the_first_counts():
    item = Item(line=1, context="", choices=("ab", "cd"), right=1)
    assert numbers([item], [Scored(-1.0, False), Scored(-1.0, False)])["acc"] == 0.0


def test_answers_alone_have_no_accuracy():
    item = Item(line=1, context="", choices=("ab",), right=0)
    found = numbers([item], [Scored(-LN2 * 4, True)])
    assert found["acc"] is None
    assert found["bits_per_byte"] == pytest.approx(2.0)
    assert found["greedy"] == 1.0


def items_file(folder, name="own.jsonl"):
    path = folder / name
    path.write_text(
        '{"context": "the cat sat on ", "choices": ["a mat", "dogs it"], "answer": 0}\n'
        '{"context": "", "choices": ["mat the on", "the cat sat"], "answer": 1}\n'
        '{"context": "seven dogs ran past", "answer": " it"}\n'
    )
    return path


def test_a_run_is_scored_once(run_dir, tmp_path):
    before, path = read_record(run_dir / "record.json"), items_file(tmp_path)
    record = evaluate_run(run_dir, [f"tasks=[{path},cloze]", run_cache(run_dir)])
    assert record == read_record(run_dir / "record.json")
    assert set(record.evaluations) == {*before.evaluations, "tasks/own", "tasks/cloze"}
    own = record.evaluations["tasks/own"]
    assert own["n_items"] == 3
    assert own["acc"] in (0.0, 0.5, 1.0)
    assert own["seq_len"] == 32
    table = tasks_table(record.evaluations)
    assert f"{own['bits_per_byte']:.4f}" in table
    (run_dir / "last.ckpt").write_bytes(b"no longer a checkpoint")
    again = evaluate_run(run_dir, [f"tasks=[cloze,{path}]", run_cache(run_dir)])
    assert again == record
    path.write_text(path.read_text().replace("seven", "the"))
    with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
        evaluate_run(run_dir, [f"tasks=[{path}]", run_cache(run_dir)])


def test_batches_change_nothing(run_dir, tmp_path):
    command = [f"tasks=[{items_file(tmp_path)}]", run_cache(run_dir)]
    one = evaluate_run(run_dir, command).evaluations["tasks/own"]
    shutil.copy(tmp_path / "own.jsonl", tmp_path / "other.jsonl")
    command[0] = f"tasks=[{tmp_path / 'other.jsonl'}]"
    other = evaluate_run(run_dir, [*command, "evaluation.batch_size=1"]).evaluations["tasks/other"]
    assert other.pop("bits_per_byte") == pytest.approx(one.pop("bits_per_byte"), rel=1e-6)
    assert other == one


def test_a_trained_model_prefers_what_it_was_trained_on(run_dir, tmp_path):
    """The nursery's words are in a fixed order after each other; noise is not."""
    path = tmp_path / "order.jsonl"
    items = [
        {"context": "the cat sat on a mat", "choices": [" xqzv jkwp", " while seven"], "answer": 1},
        {"context": "", "choices": ["the cat sat", "QQQQ ZZZZ XXXX"], "answer": 0},
    ]
    path.write_text("\n".join(map(json.dumps, items)))
    record = evaluate_run(run_dir, [f"tasks=[{path}]", run_cache(run_dir)])
    assert record.evaluations["tasks/order"]["acc"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks=[none.jsonl]"], "none.jsonl does not exist; name a .jsonl file of items"),
        (["tasks=[cloze,cloze]"], "names cloze twice, and a record has one place"),
        (["tasks=a,b"], r"tasks=a,b: give a list, as tasks=\[cloze,grammar\]"),
        (["tasks=[]"], r"no sets named; give eval=\[NAME,...\] of .*, or tasks=.* of cloze, gram"),
        (["tasks=[cloze,'']"], "has an empty name"),
        (["tasks=[cloze]", "tasks_folder=none"], "tasks_folder=none is not a folder"),
    ],
)
def test_refuses_before_anything_is_built(run_dir, words, message):
    (run_dir / "last.ckpt").write_bytes(b"not read")
    with pytest.raises(ValueError, match=message) as error:
        evaluate_run(run_dir, [*words, run_cache(run_dir)])
    assert "\n" not in str(error.value)


def test_names_the_line_of_an_answer_that_the_window_can_t_hold(run_dir, tmp_path):
    path = items_file(tmp_path)
    with path.open("a") as file:
        file.write('{"context": "the", "answer": "' + " cat" * 40 + '"}\n')
    (run_dir / "last.ckpt").write_bytes(b"not read")
    with pytest.raises(ValueError, match=r"own.jsonl, line 4: a continuation has \d+ tokens, more"):
        evaluate_run(run_dir, [f"tasks=[{path}]", run_cache(run_dir)])
    assert len(read_task(path).items) == 4


def test_expert_choice_is_refused_with_the_reason(trained, tmp_path):
    run_dir = shutil.copytree(trained("model=moe", "n_experts=4"), tmp_path / "run")
    (run_dir / "last.ckpt").write_bytes(b"not read")
    with pytest.raises(ValueError, match="expert choice, which routes by later tokens too"):
        evaluate_run(run_dir, [f"tasks=[{items_file(tmp_path)}]"])


def test_the_command_prints_a_table_and_refuses_in_one_line(run_dir, tmp_path, command):
    code, out, err = command(evaluate, run_dir, "tasks=[none.jsonl]")
    assert (code, out) == (2, "")
    assert err == (
        "error: tasks=[none.jsonl]: none.jsonl does not exist; name a .jsonl file of items\n"
    )
    words = (f"tasks={items_file(tmp_path)}", run_cache(run_dir))
    code, out, err = command(evaluate, run_dir, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "scoring own"
    assert lines[1].split() == ["task", "metric", "value", "stderr", "items"]
    assert [line.split()[1] for line in lines[2:-1]] == [
        "acc", "acc_norm", "acc_bytes", "greedy", "bits_per_byte",
    ]  # fmt: skip
    assert lines[2].split()[-1] == "2"  # items with choices
    assert lines[5].split()[-1] == "3"
