"""Diary: work that is lost, or done by two, is seen, and a right run is let through."""

import pytest

from experiments.training.checkpoints import VOTE_STEPS
from tests.soak.diary import lost_work
from tests.soak.judge import DOUBLED, LOST, WRONG


def entries(text, pid=1, seconds=2.0, **of_start):
    """'start 3/2, step 4, saved 4': a start at step 3, where the disk had step 2; a second each."""
    found = []
    for at, word in enumerate(text.split(", ")):
        what, value = word.split()
        step, _, disk = value.partition("/")
        entry = {"run": "r", "pid": pid, "at": float(at), "what": what, "step": int(step)}
        if what == "start":
            entry |= {"disk": int(disk) if disk else None, "seconds": seconds}
            entry |= {"n_ranks": 1, "has_lock": True, **of_start}
        if what == "saved":
            entry["kept"] = True
        found.append(entry)
    return found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("start 0, step 1, step 2, saved 2, step 3", "start 2/2, step 3, saved 3"),
        ("start 0, step 1, step 2, step 3", "start 0, step 1"),  # killed before it was saved
        ("start 0, step 1, saved 1", "start 1/1, saved 1"),  # nothing left to do
    ],
)
def test_a_right_resume_is_let_through(first, second):
    assert list(lost_work([*entries(first), *entries(second, pid=2)])) == []


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("start 0, step 1, saved 1", "start 0/1", "started at step 0, and the newest whole"),
        ("start 0, step 1, saved 1", "start 0", "started at step 0, after 1 was saved"),
        ("start 0, step 1, saved 1", "start 1/1, step 3", "step 3 follows 1"),
        ("start 0, step 1, step 2, step 3, step 4", "start 0", "step 3 came 3.000 s after 0"),
        ("start 0, step 1, saved 1, step 2, step 3, step 4, step 5", "start 1/1", "step 4 came 3"),
    ],
)
def test_lost_work_is_seen(first, second, text):
    found = list(lost_work([*entries(first), *entries(second, pid=2)]))
    assert {problem.kind for problem in found} == {LOST}
    assert found[0].text.startswith(text)


def test_a_saved_step_may_be_taken_again_where_its_checkpoint_was_damaged():
    both = [*entries("start 0, step 1, saved 1"), *entries("start 0, step 1", pid=2)]
    assert list(lost_work(both, trusted=False)) == []


def test_two_that_train_at_once_are_seen_unless_they_have_no_lock():
    one, other = entries("start 0, step 1, step 2, step 3"), entries("start 0, step 1", pid=2)
    both = [*one[:2], *other, *one[2:]]
    assert {problem.kind for problem in lost_work(both)} == {DOUBLED}
    assert list(lost_work(both, locked=False)) == []


def test_ranks_may_go_on_to_their_next_vote():
    """By the product's own number of steps, and no further."""
    steps = ", ".join(f"step {i}" for i in range(1, VOTE_STEPS + 5))
    found = list(lost_work(entries(f"start 0, {steps}", n_ranks=2)))
    assert [problem.text for problem in found] == ["step 3 came 3.000 s after 0, and wasn't saved"]
    assert list(lost_work(entries(f"start 0, {steps}".rpartition(",")[0], n_ranks=2))) == []


@pytest.mark.parametrize(("n_ranks", "n_steps"), [(1, 2), (2, 2 + VOTE_STEPS)])
def test_a_process_that_goes_on_when_it_is_asked_to_stop_is_seen(n_ranks, n_steps):
    steps = [f"step {i}" for i in range(1, n_steps + 2)]
    whole = entries(", ".join(["start 0", *steps]), n_ranks=n_ranks, seconds=1e9)
    assert list(lost_work(whole[:-1], asked={1: 0.5})) == []
    found = list(lost_work(whole, asked={1: 0.5}))
    assert [(p.kind, p.text) for p in found] == [
        (WRONG, f"pid 1 took {n_steps + 1} steps after it was asked to stop")
    ]
    assert list(lost_work(whole, asked={2: 0.5})) == []


def test_a_start_without_a_lock_and_a_lost_checkpoint_are_seen():
    alone = entries("start 0, step 1, saved 1", has_lock=False)
    assert [problem.kind for problem in lost_work(alone)] == [WRONG]
    assert list(lost_work(alone, locked=False)) == []
    assert list(lost_work(entries("start 0", has_lock=None))) == []  # a disk without locks
    one = entries("start 0, step 1, saved 1")
    one[-1]["kept"] = False
    assert [problem.kind for problem in lost_work(one)] == [LOST]
