"""Products of sorted rows with their experts' matrices, against a product an expert in float64."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from experiments.benchmarks.core.shapes import type_name
from experiments.gpu.check import Check, Deviation, Inputs, of_largest
from experiments.kernels.grouped import grouped_matmul

RESULTS = ("value", "gradient of x", "gradient of the weights")


def grouped(
    counts: Sequence[int], sides: tuple[int, int], dtype: torch.dtype, *, ours: bool
) -> Check:
    """counts: rows of each expert; sides: of its matrix. ours: our kernels, whatever the card; else
    what training takes on it.
    """
    n_rows, (width, n_out) = sum(counts), sides

    def inputs(device: str) -> Inputs:
        x = torch.randn(n_rows, width, device=device).to(dtype)
        weights = torch.randn(len(counts), width, n_out, device=device).to(dtype)
        grad = torch.randn(n_rows, n_out, device=device).to(dtype)
        return x, weights, torch.tensor(counts, device=device).cumsum(0), grad

    def run(x: Tensor, weights: Tensor, ends: Tensor, grad: Tensor) -> list[Tensor]:
        if ours:
            from experiments.kernels.triton_grouped import product, weights_gradient

            of_x = product(grad, weights.transpose(1, 2), ends)
            return [product(x, weights, ends), of_x, weights_gradient(x, grad, ends)]
        x, weights = (t.clone().requires_grad_() for t in (x, weights))
        out = grouped_matmul(x, weights, ends, "triton")
        return [out.detach(), *torch.autograd.grad(out, (x, weights), grad)]

    def deviations(results: Sequence[Tensor], *given: Tensor) -> list[Deviation]:
        x, weights, _, grad = (t.double() for t in given)
        bounds = list(enumerate(pairwise([0, *torch.tensor(counts).cumsum(0).tolist()])))
        slow = (
            torch.cat([x[a:b] @ weights[e] for e, (a, b) in bounds]),
            torch.cat([grad[a:b] @ weights[e].t() for e, (a, b) in bounds]),
            torch.stack([x[a:b].t() @ grad[a:b] for _, (a, b) in bounds]),
        )
        return [of_largest(*each) for each in zip(RESULTS, results, slow, strict=True)]

    by = "ours" if ours else "as in training"
    return Check(
        kernel="grouped products",
        case=f"T={n_rows} E={len(counts)} D={width} F={n_out} {type_name(dtype)}, {by}",
        inputs=inputs,
        run=run,
        deviations=deviations,
    )
