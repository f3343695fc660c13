"""Types of each layer's products under bfloat16 autocast, and of its gradients."""

import pytest
import torch

from experiments.benchmarks.core.products import Products
from experiments.config.reading import build
from experiments.kernels.ops import Execution
from tests.models.ffn.reference import with_tokens
from tests.models.ffn.test_contract import D_MODEL, SEQ, VARIANTS, variant_id

EXACT = ("router", "keys")  # terms of a cost whose products choose experts
NO_MATRICES = (
    "query_norm",
    "pairs",
    "combine",
    "agreement",
    "convolution",
)  # nor have terms with tables


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_all_products_are_bfloat16_but_those_that_choose_experts(compose_raw, variant):
    name, options = variant
    config = build({**compose_raw(f"model={name}")["model"], **options}, "model")
    layer = with_tokens(config.build(D_MODEL))
    layer.execution = Execution(kernel="torch")  # C++ is out of sight, and has float32
    x = torch.randn(2, SEQ, D_MODEL, requires_grad=True)
    with Products() as forward, torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    with Products() as backward:
        y.sum().backward()
    flops = {t.name: 2 * SEQ * t.flops for t in config.cost(D_MODEL).terms if not t.n_tables}
    exact = sum(flops.get(term, 0) for term in EXACT)
    rounded = sum(f for term, f in flops.items() if term not in (*EXACT, *NO_MATRICES))
    assert forward.flops[torch.bfloat16] == rounded
    assert backward.flops[torch.bfloat16] == 2 * rounded
    # the weighted sum of bfloat16 outputs of experts, which is float32, may be a product or not
    assert forward.flops[torch.float32] in (exact, exact + flops.get("combine", 0))
    for parameter in layer.parameters():
        assert parameter.grad.dtype == parameter.dtype == torch.float32
