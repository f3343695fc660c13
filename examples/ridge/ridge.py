"""Ridge regression by gradient descent: an ordinary Hydra app, swept by this project's commands.

python examples/ridge/ridge.py degree=7
python examples/ridge/ridge.py -m degree=3,5,7 penalty=1e-4,1e-2 seed=0,1 sweep=ridge
python -m experiments.status ridge
"""

import io
import time

import numpy as np

from experiments.sweep.own_app import OwnApp, Size
from experiments.sweep.own_run import Run


class Ridge(OwnApp):
    """Polynomial of a degree, fitted to half of a noisy curve's points. loss: on the others."""

    save_seconds = 1.0

    def check(self, config):
        if not 1 <= config["degree"] <= 30:
            raise ValueError(f"degree={config['degree']} must be from 1 to 30")
        if not config["penalty"] >= 0:
            raise ValueError(f"penalty={config['penalty']} must not be negative")

    def size(self, config):
        return Size(n_steps=config["n_steps"])

    def label(self, config):
        return f"ridge degree={config['degree']} seed={config['seed']}"

    def identity(self, config):
        return {k: v for k, v in super().identity(config).items() if k != "pause"}

    def run(self, run: Run):
        config = run.config
        rng = np.random.default_rng(config["seed"])
        x = rng.uniform(-1, 1, config["n_points"])
        y = np.sin(3 * x) + 0.1 * rng.normal(size=len(x))
        features = np.polynomial.legendre.legvander(x, config["degree"])
        half = len(x) // 2
        fitted, held_out = (features[:half], y[:half]), (features[half:], y[half:])
        weights, first = np.zeros(features.shape[1]), 0
        if (saved := run.saved()) is not None:
            weights, first = np.load(io.BytesIO(saved.content), allow_pickle=False), saved.step
        for step in range(first, config["n_steps"]):
            error = fitted[0] @ weights - fitted[1]
            gradient = fitted[0].T @ error / half + config["penalty"] * weights
            weights = weights - config["rate"] * gradient
            run.step(step + 1, lambda: _bytes(weights), loss=float(np.mean(error**2)))  # noqa: B023
            time.sleep(config["pause"])
        error = held_out[0] @ weights - held_out[1]
        return {"loss": float(np.mean(error**2)), "size": float(weights @ weights)}


def _bytes(weights: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, weights)
    return file.getvalue()


if __name__ == "__main__":
    Ridge.main()
