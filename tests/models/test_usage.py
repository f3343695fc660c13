"""Table 2's measures on cases done by hand."""

import math

import pytest
import torch

from experiments.models.usage import ExpertUsage


def summary(n_experts, indices, gates):
    meter = ExpertUsage(n_experts)
    meter.add(torch.tensor(indices), torch.tensor(gates))
    return meter.summary()


def test_even_use_has_no_unevenness():
    result = summary(4, [0, 1, 2, 3], [0.5, 0.5, 0.5, 0.5])
    assert result.usage == 1.0
    assert result.unevenness == pytest.approx(0.0, abs=1e-12)


def test_one_expert_for_all_is_log_n():
    result = summary(4, [[2, 2], [2, 2]], [[0.3, 0.7], [0.1, 0.9]])
    assert result.usage == 0.25
    assert result.unevenness == pytest.approx(math.log(4))


def test_scores_are_summed_and_not_counted():
    """z = (3/4, 1/4): the expert retrieved more often can weigh less."""
    result = summary(2, [0, 1, 1], [0.75, 0.125, 0.125])
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert result.unevenness == pytest.approx(expected)


def test_a_retrieved_expert_of_no_weight_is_not_used():
    assert summary(3, [0, 1], [1.0, 0.0]).usage == pytest.approx(1 / 3)


def test_nothing_routed():
    result = summary(5, [0], [0.0])
    assert (result.usage, result.unevenness) == (0.0, pytest.approx(math.log(5)))


def test_additions_accumulate():
    meter = ExpertUsage(2)
    for expert in (0, 1):
        meter.add(torch.tensor([expert]), torch.tensor([1.0]))
    assert meter.summary().unevenness == pytest.approx(0.0, abs=1e-12)
