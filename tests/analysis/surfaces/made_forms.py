"""Tables made of each form, written down apart from the product, and their true parameters."""

import numpy as np
import pandas as pd


def _grid(**columns):
    names = list(columns)
    values = np.meshgrid(*columns.values(), indexing="ij")
    return pd.DataFrame({name: v.ravel() for name, v in zip(names, values, strict=True)})


N0, D0 = np.sqrt(5e7 * 1e9), np.sqrt(2e9 * 5e10)  # middle of the runs of rates


def rates(sizes=4, rates=6, batches=4):
    return _grid(
        n_params=np.geomspace(5e7, 1e9, sizes),
        n_tokens=np.geomspace(2e9, 5e10, sizes),
        lr=np.geomspace(2e-4, 1e-2, rates),
        batch=np.geomspace(64, 1024, batches),
    )


def _optimum(t, lr, batch, bend=0.0, slope=0.0):
    """ln of lr and of the batch less their best."""
    n, d = np.log(t["n_params"] / N0), np.log(t["n_tokens"] / D0)
    y = np.log(t["batch"]) - np.log(batch[0]) - batch[1] * d - batch[2] * n
    x = np.log(t["lr"]) - np.log(lr[0]) - lr[1] * n - lr[2] * d - slope * y - bend * y**2
    return n, d, x, y


def _base(n, d, mixed=0.0):
    return 1.2 + 0.8 * np.exp(-0.3 * n) + 0.4 * np.exp(-0.35 * d + mixed * n)


def step_law(t):
    n, d, x, y = _optimum(t, (2e-3, -0.6, 0.25), (250.0, 0.4, 0.0))
    return _base(n, d) + 0.03 * x**2 + 0.02 * y**2


def porian(t):
    n, d, x, y = _optimum(t, (2e-3, -0.5, 0.0), (250.0, 0.0, 0.5))
    return _base(n, d) + 0.03 * x**2 + 0.02 * y**2


def nested(t):
    n, d, x, y = _optimum(t, (2e-3, -0.6, 0.25), (250.0, 0.4, -0.1), slope=0.4)
    wide, deep = np.exp(-0.1 * n - 0.2 * d), np.exp(0.1 * n - 0.3 * d)
    return _base(n, d) + 0.03 * wide * x**2 + 0.02 * deep * y**2


def nested_skewed(t):
    n, d, x, y = _optimum(t, (2e-3, -0.6, 0.2), (250.0, 0.5, -0.1), bend=-0.1, slope=0.35)
    wide, deep = np.exp(-0.1 * n - 0.25 * d), np.exp(0.1 * n - 0.25 * d)
    of_lr = 2 * (np.exp(0.6 * x) - 1 - 0.6 * x) / 0.6**2
    of_batch = 2 / 1.5 * ((np.exp(0.8 * y) - 1) / 0.8 - (1 - np.exp(-0.7 * y)) / 0.7)
    return _base(n, d, 0.2) + 0.03 * wide * of_lr + 0.02 * deep * of_batch


def _vocabulary():
    t = _grid(
        n_non_vocab_params=np.geomspace(3e7, 6e8, 4),
        vocab_size=np.geomspace(4096, 96000, 5),
        n_characters=np.geomspace(5e8, 1e11, 8),
    )
    width = np.sqrt(t["n_non_vocab_params"] / 150)
    return t.assign(n_vocab_params=t["vocab_size"] * width, n_tokens=t["n_characters"] / 4)


def vocabulary(t):
    powers = 5e3 * t["n_non_vocab_params"] ** -0.5 + 300.0 * t["n_vocab_params"] ** -0.4
    return -5.5 + powers + 1e4 * t["n_tokens"] ** -0.43


def vocabulary_and_text(t):
    powers = 5e3 * t["n_non_vocab_params"] ** -0.5 + 30.0 * t["vocab_size"] ** -0.5
    return -5.5 + powers + 5e3 * t["vocab_size"] ** 0.12 * t["n_characters"] ** -0.42


def rectified(t):
    return 60.0 / (40.0 + t["n_examples"] ** 0.7) + 1.2


def _mixture(n=40):
    shares = np.random.default_rng(5).dirichlet([1.0, 1.0, 1.0], n)
    return pd.DataFrame(shares, columns=["share.web", "share.code", "share.books"])


def data_mixing(t):
    return 1.5 + np.exp(0.1 * t["share.web"] - 1.0 * t["share.code"] + 0.6 * t["share.books"])


def parallel(t):
    return 0.9 + (4e9 / (t["n_params"] * (1 + 0.35 * np.log(t["n_streams"])))) ** 0.25


def _saturated(E, start, most):
    """Clark 2022 (arXiv:2202.01169), eq. 2, over its value at one expert."""
    hat = 1 / (1 / (E - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    return hat / start


def routed(start, most, b):
    """Law of two routers, hash and base: each parameter of experts by router."""

    def law(t):
        base = (t["router"] == "base").to_numpy()
        own = [np.where(base, *pair) for pair in (start, most, b)]
        gain = _saturated(t["n_experts"].to_numpy(), *own[:2]) ** -own[2]
        return 1.5 + 40.0 * t["n_params"] ** -0.2 * gain

    return law


def _routers():
    t = _grid(
        n_params=np.geomspace(2e7, 1e9, 5),
        n_experts=2.0 ** np.arange(0, 10),
        router=np.array(["base", "hash"]),
    )
    return t[(t["n_experts"] > 1) | (t["router"] == "hash")].reset_index(drop=True)


_EXAMPLES = _grid(n_examples=200 * 2.0 ** np.arange(14))
_STREAMS = _grid(n_params=np.geomspace(5e8, 4e9, 6), n_streams=np.array([1.0, 2.0, 4.0, 8.0]))
MADE = {  # form -> its law, its runs, and some of its parameters
    "step_law": (step_law, rates(), {"alpha": 0.3, "lr_N": -0.6, "lr_D": 0.25, "batch_D": 0.4}),
    "porian": (porian, rates(), {"lr_N": -0.5, "batch_N": 0.5, "k_lr": 0.03, "E": 1.2}),
    "nested": (nested, rates(), {"lr_batch": 0.4, "k_lr_D": -0.2, "k_batch_N": 0.1}),
    "nested_skewed": (
        nested_skewed,
        rates(),
        {"B_N": 0.2, "lr_bend": -0.1, "above_lr": 0.6, "above_batch": 0.8, "below_batch": 0.7},
    ),
    "vocabulary": (
        vocabulary,
        _vocabulary(),
        {"E": 5.5, "A1": 5e3, "alpha2": 0.4, "B": 1e4, "beta": 0.43},
    ),
    "vocabulary_and_text": (
        vocabulary_and_text,
        _vocabulary(),
        {"E": 5.5, "A2": 30.0, "B_V": -0.12, "beta": 0.42},
    ),
    "rectified": (rectified, _EXAMPLES, {"E": 1.2, "B": 60.0, "D_l": 40.0, "beta": 0.7}),
    "data_mixing": (data_mixing, _mixture(), {"c": 1.5, "t.code": -1.0, "t.books": 0.6}),
    "router_one": (
        routed((2.0, 2.0), (300.0, 300.0), (0.1, 0.1)),
        _routers(),
        {"L0": 1.5, "K": 40.0, "a": 0.2, "E_start": 2.0, "E_max": 300.0, "b": 0.1},
    ),
    "router_exponent": (
        routed((2.0, 2.0), (300.0, 300.0), (0.12, 0.08)),
        _routers(),
        {"L0": 1.5, "E_max": 300.0, "b.base": 0.12, "b.hash": 0.08},
    ),
    "router_experts": (
        routed((1.5, 4.0), (200.0, 600.0), (0.12, 0.1)),
        _routers(),
        {"a": 0.2, "E_start.hash": 4.0, "E_max.base": 200.0, "b.base": 0.12, "b.hash": 0.1},
    ),
    "parallel": (parallel, _STREAMS, {"E": 0.9, "A": 4e9, "alpha": 0.25, "k": 0.35}),
}
