import pytest
import torch

from experiments.kernels.grouped import grouped_matmul, grouped_matmul_loop


@pytest.mark.parametrize("sizes", [[3, 0, 5, 2], [0, 0, 0, 10], [10, 0, 0, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("d_in", "d_out"), [(16, 32), (10, 7)])
def test_equals_the_loop(sizes, dtype, d_in, d_out):
    x = torch.randn(sum(sizes), d_in, dtype=torch.float64)
    weights = torch.randn(len(sizes), d_in, d_out, dtype=torch.float64)
    ends = torch.tensor(sizes).cumsum(0)
    gradients = []
    for function, kind in ((grouped_matmul, dtype), (grouped_matmul_loop, torch.float64)):
        a = x.to(kind).requires_grad_()
        w = weights.to(kind).requires_grad_()
        out = function(a, w, ends)
        out.square().sum().backward()
        gradients.append((out.detach(), a.grad, w.grad))
    # bfloat16 keeps 8 bits: 3 decimal digits less than float32, summed over d_in products
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 1e-1}[dtype]
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast.double(), slow, rtol=tolerance, atol=tolerance * 5)
