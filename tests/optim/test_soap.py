"""SOAP against Algorithms 3 and 4 of its paper, written out in float64."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.optim.optimizer import GroupedOptimizer
from experiments.optim.soap import SOAPConfig

SOAP = SOAPConfig(**asdict(OPTIM), soap_lr=1.0, soap_beta1=0.9, soap_beta2=0.8, soap_every=3)
LR, DECAY, EPS = 0.02, 0.1, 1e-8


def optimizer_of(parameter, **changed):
    group = {"by": SOAP, "params": [parameter], "lr": LR, "weight_decay": DECAY}
    return GroupedOptimizer([{**group, **changed}])


class Reference:
    """One matrix, by the equations of soap.py."""

    def __init__(self, w):
        self.w, (m, n), self.t = w.copy(), w.shape, 0
        self.first, self.second = np.zeros((m, n)), np.zeros((m, n))
        self.left, self.right = np.zeros((m, m)), np.zeros((n, n))

    def step(self, g):
        if self.t:
            self.first = 0.9 * self.first + 0.1 * g
            turned = self.ql.T @ g @ self.qr
            self.second = 0.8 * self.second + 0.2 * turned**2
            m = self.ql.T @ self.first @ self.qr / (1 - 0.9**self.t)
            v = self.second / (1 - 0.8**self.t)
            step = self.ql @ (m / (np.sqrt(v) + EPS)) @ self.qr.T
            self.w = self.w - LR * DECAY * self.w - LR * step
        self.left = 0.8 * self.left + 0.2 * g @ g.T
        self.right = 0.8 * self.right + 0.2 * g.T @ g
        if self.t and self.t % 3 == 0:
            self.ql, self.qr = (
                np.linalg.qr(self.left @ self.ql)[0],
                np.linalg.qr(self.right @ self.qr)[0],
            )
        self.t += 1

    def take(self, ql, qr):
        """First bases: eigenvectors, of which those without a value are anybody's choice."""
        for basis, square in ((ql, self.left), (qr, self.right)):
            values = basis.T @ square @ basis
            assert np.allclose(values, np.diag(np.diag(values)), atol=1e-12)
            assert np.allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)
        self.ql, self.qr = ql, qr


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 5, 4)])
def test_steps_are_those_written_out_in_float64(shape):
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    start = parameter.detach().clone().reshape(-1, *shape[-2:]).numpy()
    references = [Reference(one) for one in start]
    optimizer = optimizer_of(parameter)
    for i in range(9):  # two turns of the bases
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        for one, g in zip(references, gradient.reshape(start.shape).numpy(), strict=True):
            one.step(g)
        if i == 0:
            assert np.array_equal(parameter.detach().reshape(start.shape).numpy(), start)
            state = optimizer.state[parameter]
            bases = (state[f"{side}_basis"].clone().numpy() for side in ("left", "right"))
            for one, *own in zip(references, *(b.reshape(-1, *b.shape[-2:]) for b in bases)):
                one.take(*own)
    found = parameter.detach().reshape(start.shape).numpy()
    assert np.allclose(found, np.stack([one.w for one in references]), rtol=0, atol=1e-12)


def test_float32_is_as_near_as_its_digits():
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(6, 6, generator=generator)
    narrow, wide = nn.Parameter(start.clone()), nn.Parameter(start.double())
    each = [(p, optimizer_of(p)) for p in (narrow, wide)]
    for _ in range(9):
        gradient = torch.randn(6, 6, generator=generator)
        for parameter, optimizer in each:
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    # eigenvectors lose the digits that eigenvalues share: here three or so of float32's seven
    assert (narrow - wide).norm() < 1e-3 * (wide - start).norm()


def test_parametrizations_without_a_rule_are_refused():
    with pytest.raises(ValueError, match="parametrization=mup with optim=soap"):
        replace(SOAP, parametrization="mup")
