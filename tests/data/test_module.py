import numpy as np
import pytest
import torch

from experiments.data.module import (
    HeldOut,
    TrainingBatches,
    n_windows,
    take_windows,
    window_indices,
)

TOKENS = np.arange(1001, dtype=np.uint16)


def batches(n, start_step=0, rank=0, world_size=1, seed=0):
    stream = iter(
        TrainingBatches(
            TOKENS,
            seq_len=10,
            batch_size=4,
            seed=seed,
            start_step=start_step,
            rank=rank,
            world_size=world_size,
        )
    )
    return [next(stream) for _ in range(n)]


def test_targets_are_the_next_tokens():
    inputs, targets = take_windows(TOKENS, np.array([0, 99]), 10)
    assert inputs.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert inputs[1].tolist() == list(range(990, 1000))


def test_an_epoch_holds_every_window_once_and_the_next_another_order():
    n = n_windows(len(TOKENS), 10)
    assert n == 100
    order = [i for step in range(50) for i in window_indices(0, step, 4, n)]
    assert sorted(order[:100]) == sorted(order[100:]) == list(range(100))
    assert order[:100] != order[100:]


def test_a_batch_may_span_two_epochs():
    seen = np.concatenate([window_indices(0, step, 7, 10) for step in range(10)])
    assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 70, 10))


def test_a_resumed_run_sees_what_it_would_have_seen():
    whole, rest = batches(30), batches(10, start_step=20)
    for a, b in zip(whole[20:], rest, strict=True):
        assert torch.equal(a[0], b[0])


def test_ranks_share_a_batch_without_overlap():
    for whole, *parts in zip(
        batches(5), *(batches(5, rank=r, world_size=2) for r in range(2)), strict=True
    ):
        together = torch.cat([part[0] for part in parts]).sort(0).values
        assert torch.equal(together, whole[0].sort(0).values)


def test_seeds_give_other_orders():
    assert not torch.equal(batches(1)[0][0], batches(1, seed=1)[0][0])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_held_out_set_is_fixed_and_spread(batch_size):
    held_out = HeldOut(TOKENS, seq_len=10, n_eval_tokens=200, batch_size=batch_size)
    starts = [int(row[0]) for inputs, _ in held_out for row in inputs]
    assert starts == [50 * i for i in range(20)]
    assert len(held_out) == -(-20 // batch_size)


def test_the_held_out_set_is_no_larger_than_the_text():
    assert len(HeldOut(TOKENS, seq_len=10, n_eval_tokens=10**9, batch_size=100)) == 1
