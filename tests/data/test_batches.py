"""Order of packed batches: a function of (seed, step, rank, world size) alone."""

import numpy as np
import pytest
import torch

from experiments.data.batches import PackedBatches, n_windows, window_indices
from experiments.data.loader import Loader
from tests.data.conftest import packed


@pytest.fixture
def tokens(tmp_path):
    row = np.arange(1001)
    return packed(tmp_path / "t", row[:333], row[333:])


def batches(tokens, n, n_workers=0, **place):
    source = PackedBatches(tokens, seq_len=10, batch_size=4, **{"seed": 0, **place})
    stream = iter(Loader(source, n_workers))
    return [next(stream) for _ in range(n)]


def test_targets_are_the_next_tokens(tokens):
    for batch in batches(tokens, 3):
        assert batch.inputs.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape == (4, 10)
        assert torch.equal(batch.targets, batch.inputs + 1)
        assert not (batch.inputs[:, 0] % 10).any()


def test_an_epoch_holds_every_window_once_and_the_next_another_order():
    n = n_windows(1001, 10)
    assert n == 100
    order = [i for step in range(50) for i in window_indices(0, step, 4, n)]
    assert sorted(order[:100]) == sorted(order[100:]) == list(range(100))
    assert order[:100] != order[100:]


def test_a_batch_may_span_two_epochs():
    seen = np.concatenate([window_indices(0, step, 7, 10) for step in range(10)])
    assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 70, 10))


def test_a_resumed_run_sees_what_it_would_have_seen(tokens):
    for a, b in zip(batches(tokens, 30)[17:], batches(tokens, 13, start_step=17), strict=True):
        assert torch.equal(a.inputs, b.inputs)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # of 1 core
def test_workers_change_nothing(tokens):
    expected = batches(tokens, 11, start_step=7)
    for a, b in zip(expected, batches(tokens, 11, 2, start_step=7), strict=True):
        assert torch.equal(a.inputs, b.inputs)


def test_ranks_share_a_batch_without_overlap(tokens):
    parts = [batches(tokens, 5, rank=r, world_size=2) for r in range(2)]
    for whole, *shares in zip(batches(tokens, 5), *parts, strict=True):
        together = torch.cat([share.inputs for share in shares]).sort(0).values
        assert torch.equal(together, whole.inputs.sort(0).values)


def test_seeds_give_other_orders(tokens):
    assert not torch.equal(batches(tokens, 1)[0].inputs, batches(tokens, 1, seed=1)[0].inputs)
