"""Keys that are let in little by little, while a layer that has grown is trained on.

A bias on their scores begins so low that none is retrieved, and rises to 0 linearly
(init/growth). It follows from the step alone, so a run that is taken up again has the same.
"""

from collections.abc import Mapping

import torch

from experiments.models.ffn._base import FFN, Late


class LateKeys:
    """The bias of all grown layers.

    layers: each with its Late.n_old, and how far below 0 its bias begins.
    n_steps: after which it is 0.
    """

    def __init__(self, layers: Mapping[FFN, tuple[int, float]], n_steps: int) -> None:
        self._layers, self._n_steps = layers, n_steps

    def set(self, step: int) -> None:
        """As it is in the step of this number, from 0."""
        share = 1 - step / self._n_steps if step < self._n_steps else 0.0
        for layer, (n_old, depth) in self._layers.items():
            if share == 0:
                layer.late = None
                continue
            if layer.late is None or layer.late.bias is None:  # else the same tensor: a compiled
                at = layer.output_weights()[0].device  # graph reads it again
                layer.late = Late(n_old=n_old, bias=torch.zeros((), device=at))
            assert layer.late.bias is not None
            layer.late.bias.fill_(-depth * share)

    def let_in(self) -> None:
        """No bias any more."""
        for layer in self._layers:
            layer.late = None
