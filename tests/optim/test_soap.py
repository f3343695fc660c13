"""SOAP against its authors' equations, written out in float64."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.optim.optimizer import GroupedOptimizer
from experiments.optim.soap import SOAPConfig

LR, DECAY, EPS, EVERY = 0.02, 0.1, 1e-2, 10
OWN = {"soap_lr": 1.0, "soap_beta1": 0.9, "soap_beta2": 0.8, "soap_every": EVERY}
SOAP = SOAPConfig(**asdict(OPTIM) | {"eps": EPS}, **OWN)


def optimizer_of(parameter, **changed):
    group = {"by": SOAP, "params": [parameter], "lr": LR, "weight_decay": DECAY}
    return GroupedOptimizer([{**group, **changed}])


class Reference:
    """One matrix, by the equations of the authors' code (github.com/nikhilvyas/SOAP): its first
    moment is kept in the bases, which it leaves and enters again at each change of them.
    """

    def __init__(self, w):
        self.w, (m, n), self.t = w.copy(), w.shape, 0  # t: moves
        self.first, self.second = np.zeros((m, n)), np.zeros((m, n))
        self.left, self.right, self.bases = np.zeros((m, m)), np.zeros((n, n)), None

    def step(self, g):
        if self.bases is not None:
            self.t += 1
            ql, qr = self.bases
            turned = ql.T @ g @ qr
            self.first = 0.9 * self.first + 0.1 * turned
            self.second = 0.8 * self.second + 0.2 * turned**2
            lr = LR * np.sqrt(1 - 0.8**self.t) / (1 - 0.9**self.t)
            self.w = self.w - lr * ql @ (self.first / (np.sqrt(self.second) + EPS)) @ qr.T
            self.w = self.w - LR * DECAY * self.w
        self.left = 0.8 * self.left + 0.2 * g @ g.T
        self.right = 0.8 * self.right + 0.2 * g.T @ g
        if self.t and self.t % EVERY == 0:
            first = ql @ self.first @ qr.T
            self.second, ql = self.turned(self.second, ql, self.left)
            second, qr = self.turned(self.second.T, qr, self.right)
            self.second, self.bases = second.T, (ql, qr)
            self.first = ql.T @ first @ qr

    def turned(self, second, basis, known):
        """Rows of the second moment, and the basis: one power iteration in the order of size."""
        sizes = [column @ known @ column for column in basis.T]
        order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
        return second[order], np.linalg.qr(known @ basis[:, order])[0]

    def take(self, *bases):
        """First bases: eigenvectors, of which those without a value are anybody's choice."""
        for basis, square in zip(bases, (self.left, self.right), strict=True):
            values = basis.T @ square @ basis
            assert np.allclose(values, np.diag(np.diag(values)), atol=1e-12)
            assert np.allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)
            assert (np.diff(np.diag(values)) <= 1e-12).all(), "largest first"
        self.bases = bases


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 5, 4)])
def test_a_hundred_steps_are_those_of_the_authors_equations_in_float64(shape):
    generator = torch.Generator().manual_seed(0)
    # gradients of several sizes, as a network's: the order of the columns is then of weight
    scales = torch.logspace(-1, 1, shape[-1], dtype=torch.float64)
    parameter = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    start = parameter.detach().clone().reshape(-1, *shape[-2:]).numpy()
    references = [Reference(one) for one in start]
    optimizer = optimizer_of(parameter)
    for i in range(100):
        gradient = scales * torch.randn(shape, generator=generator, dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        state = optimizer.state[parameter]
        for one, g in zip(references, gradient.reshape(start.shape).numpy(), strict=True):
            one.step(g)
        if i == 0:
            assert np.array_equal(parameter.detach().reshape(start.shape).numpy(), start)
            bases = (state[f"{side}_basis"].clone().numpy() for side in ("left", "right"))
            for one, *own in zip(references, *(b.reshape(-1, *b.shape[-2:]) for b in bases)):
                one.take(*own)
        found = parameter.detach().reshape(start.shape).numpy()
        assert np.allclose(found, np.stack([one.w for one in references]), rtol=0, atol=1e-10)
    second = state["exp_avg_sq"].reshape(start.shape).numpy()
    assert np.allclose(second, np.stack([one.second for one in references]), rtol=1e-8)


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
