"""What is left of a layer when each token keeps its largest units: against a loop over tokens."""

import torch

from experiments.benchmarks.neurons import only
from experiments.models.ffn.dense import DenseConfig
from experiments.models.transformer import TransformerConfig

CONFIG = TransformerConfig(
    d_model=8, d_head=4, vocab_size=20, seq_len=6, tie_head=True, ffns=(DenseConfig(glu=True),) * 2
)


def by_hand(layer, x, kept):
    """(tokens, 8): the kept units of the largest |h| times the norm of what they write."""
    rows = []
    for token in x:
        h = layer.activation(layer.w_gate.weight @ token) * (layer.w_in.weight @ token)
        written = h * layer.w_out.weight  # a column a unit
        best = sorted(range(len(h)), key=lambda i: -written[:, i].norm())[:kept]
        rows.append(sum((written[:, i] for i in best), torch.zeros(8)))
    return torch.stack(rows)


def test_only_the_largest_units_write():
    model, x = CONFIG.build(), torch.randn(1, 6, 8)
    layer = model.blocks[1].ffn
    whole = layer(x)
    for kept in (0, 3, 32):
        with only(model, (1,), kept):
            torch.testing.assert_close(layer(x)[0], by_hand(layer, x[0], kept))
    assert torch.equal(layer(x), whole)  # the hooks are gone
