import pytest
import torch

from experiments.models.ffn.pkm import PKMConfig
from tests.models.ffn.reference import assert_same, retrieved, with_random_norm


@pytest.mark.parametrize("query_norm", ["none", "layer", "batch"])
def test_output_and_gradients_are_a_weighted_sum_over_a_scan(query_norm):
    config = PKMConfig(n_experts=36, n_heads=3, top_k=5, d_key=8, query_norm=query_norm)
    layer = with_random_norm(config.build(10).double())
    x = torch.randn(2, 4, 10, dtype=torch.float64)

    def naive(x):
        each = retrieved(layer, x.reshape(-1, 10))
        rows = [sum(gate * layer.values[row] for gate, row in found) for found in each]
        return torch.stack(rows).view_as(x)

    assert_same(layer, naive, x)


def test_reads_as_many_rows_as_peer_at_the_papers_sizes():
    """PKM's 8 heads of 32 values against PEER's 8 of 16 experts of two rows each."""
    from experiments.models.ffn.peer import PEERConfig

    def flops(cost, name):
        return next(t.flops for t in cost.terms if t.name == name)

    assert flops(PKMConfig().cost(1024), "values") == flops(PEERConfig().cost(1024), "experts")
