"""Values of equal nodes are made once while a sweep is planned, and no longer."""

from dataclasses import dataclass, field

import pytest

from experiments.config import once as module
from experiments.config.once import is_frozen, once, remembering


@dataclass(frozen=True)
class Frozen:
    value: object = None


@dataclass
class Open:
    value: int = 0


@dataclass(frozen=True)
class Holds:
    values: dict = field(default_factory=dict)


@pytest.mark.parametrize("value", [1, "a", None, (1, 2.0), Frozen((Frozen(),)), int])
def test_what_is_frozen_is_made_once(value):
    assert is_frozen(value)
    made = []
    with remembering():
        for _ in range(3):
            assert once("k", {"a": 1}, lambda: made.append(0) or value) is value
    assert len(made) == 1


@pytest.mark.parametrize("value", [[], {}, Open(), Holds(), Frozen([1]), (1, {}), Frozen(Open())])
def test_what_can_change_is_never_shared(value):
    assert not is_frozen(value)
    made = []
    with remembering():
        for _ in range(2):
            once("k", {}, lambda: made.append(0) or value)
    assert len(made) == 2


def test_nodes_are_told_apart_as_json_tells_them():
    nodes = [1, 1.0, True, "1", None, [1], {"a": 1}, {"a": 1.0}, {"a": True}, float("nan")]
    with remembering():
        found = [once("k", node, lambda n=number: n) for number, node in enumerate(nodes)]
        assert once("other", 1, lambda: -1) == -1
    assert found == list(range(len(nodes)))


def test_what_is_kept_is_bounded_and_ends_with_the_planning(monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 3)
    made = []

    def ask(n):
        once("k", n, lambda: made.append(n))

    with remembering():
        for n in (0, 1, 2, 0, 3, 0):
            ask(n)
            assert len(module._KEPT.get()) <= 3
        assert made == [0, 1, 2, 3]
        ask(1)  # asked for longest ago
    assert made == [0, 1, 2, 3, 1]
    ask(3)
    assert made[-1] == 3
    assert module._KEPT.get() is None


def test_an_error_is_raised_each_time():
    with remembering():
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                once("k", 1, lambda: 1 / 0)
