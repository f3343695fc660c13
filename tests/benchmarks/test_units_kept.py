"""What is left of a layer when each token keeps its largest units: against a loop over tokens."""

import torch

from experiments.benchmarks.neurons import constant, only
from experiments.data.batches import Batch
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


def test_the_mean_output_is_that_of_the_windows():
    model = CONFIG.build()
    windows = [Batch(torch.randint(0, 20, (2, 6)), torch.zeros(2, 6)) for _ in range(3)]
    seen = []
    block = model.blocks[1]
    hook = block.ffn.register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    with torch.no_grad():
        for inputs, _, _ in windows:
            model(inputs)
    hook.remove()
    mean = torch.cat(seen).mean((0, 1))
    with constant(model, (1,), windows):
        torch.testing.assert_close(block.ffn(torch.randn(1, 4, 8)), mean.expand(1, 4, 8))
    assert block.ffn(torch.zeros(1, 1, 8)).abs().max() == 0
