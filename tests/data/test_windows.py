"""Every token but the first is scored once, whatever the windows and the batch size."""

import numpy as np
import pytest

from experiments.data.batches import IGNORED
from experiments.data.windows import ScoredWindows
from tests.data.conftest import packed

N = 1003


@pytest.fixture
def tokens(tmp_path):
    return packed(tmp_path / "t", np.arange(N))


def scored(windows):
    """(target, how many tokens the model saw before it) of every scored target."""
    return [
        (int(target), i + 1)
        for batch in windows
        for row in batch.targets
        for i, target in enumerate(row)
        if target != IGNORED
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 200])
@pytest.mark.parametrize("stride", [None, 1, 3, 7, 10])
@pytest.mark.parametrize("seq_len", [10, 1002, 5000])
def test_every_target_is_scored_once(tokens, seq_len, stride, batch_size):
    windows = ScoredWindows(tokens, seq_len=seq_len, batch_size=batch_size, stride=stride)
    assert sorted(t for t, _ in scored(windows)) == list(range(1, N))
    assert len(list(windows)) == len(windows)


@pytest.mark.parametrize("stride", [None, 3])
def test_inputs_come_before_their_targets_whose_places_are_told(tokens, stride):
    windows = ScoredWindows(tokens, seq_len=10, batch_size=4, stride=stride)
    for i, batch in enumerate(windows):
        kept = (batch.targets != IGNORED).numpy()
        assert (batch.targets[kept] == batch.inputs[kept] + 1).all()
        assert (batch.targets.numpy()[kept] == windows.places(i)[kept]).all()


def test_sliding_windows_give_context(tokens):
    seen = dict(scored(ScoredWindows(tokens, seq_len=10, batch_size=4, stride=3)))
    assert all(seen[t] == t for t in range(1, 11))
    assert min(seen[t] for t in range(11, N)) == 8  # 10 - 3 before it, and itself


def test_fixed_windows_restart(tokens):
    seen = dict(scored(ScoredWindows(tokens, seq_len=10, batch_size=4)))
    assert [seen[t] for t in (1, 10, 11, 1001, 1002)] == [1, 10, 1, 1, 2]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_part_of_a_text_is_spread_evenly(tokens, batch_size):
    windows = ScoredWindows(tokens, seq_len=10, batch_size=batch_size, max_tokens=200)
    starts = [int(row[0]) for batch in windows for row in batch.inputs]
    assert starts == [50 * i for i in range(20)]


def test_more_than_there_is_means_all(tokens):
    windows = ScoredWindows(tokens, seq_len=10, batch_size=4, max_tokens=10**9)
    assert len(scored(windows)) == N - 1


def test_refuses_what_cannot_be_scored(tokens, tmp_path):
    with pytest.raises(ValueError, match="stride=11 must be from 1 to seq_len=10"):
        ScoredWindows(tokens, seq_len=10, batch_size=1, stride=11)
    with pytest.raises(ValueError, match="1 tokens are too few"):
        ScoredWindows(packed(tmp_path / "one", np.arange(1)), seq_len=10, batch_size=1)
