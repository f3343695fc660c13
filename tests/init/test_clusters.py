"""Rows on the grid: each once, like ones together."""

import pytest
import torch

from experiments.init.clusters import grid, split_lines


@pytest.mark.parametrize(("n_sub", "n_groups"), [(1, 1), (5, 1), (5, 2), (5, 5), (8, 3), (12, 4)])
def test_every_row_has_one_place(n_sub, n_groups):
    rows = torch.randn(n_sub**2, 3)
    order = grid(rows, n_sub, n_groups, torch.Generator().manual_seed(0))
    assert order.shape == (n_sub, n_sub)
    assert sorted(order.flatten().tolist()) == list(range(n_sub**2))


def test_clear_clusters_become_the_places():
    centres = 10 * torch.randn(8, 4)
    labels = torch.arange(64) % 8
    rows = centres[labels] + 0.1 * torch.randn(64, 4)
    order = grid(rows, 8, 1, torch.Generator().manual_seed(0))
    for place in order.t():
        assert len(labels[place].unique()) == 1


def test_what_lines_add_is_the_same_at_all_places():
    """Rows made as a sum of a place's part and a smaller one of a line's: both are found."""
    places, lines = 10 * torch.randn(8, 6), torch.randn(8, 6)
    rows = (places.unsqueeze(1) + lines).flatten(0, 1)  # [place, line]
    order = grid(rows, 8, 1, torch.Generator().manual_seed(0))
    assert all(len((place // 8).unique()) == 1 for place in order.t())
    assert all(len((line % 8).unique()) == 1 for line in order)


def test_lines_are_dealt_evenly():
    assert [s.stop - s.start for s in split_lines(40, 16)] == [2, 3] * 8
    assert split_lines(4, 2) == [slice(0, 2), slice(2, 4)]
