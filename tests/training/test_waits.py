"""Numbers that a step asks for: on a GPU the host would wait for each of them.

Those of a CPU's step are listed here by function, each read from the CPU's memory on a GPU too or
not read there. tests/training/test_fake_cuda.py takes the steps of a card that isn't there.
"""

import traceback

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.data.batches import Batch
from experiments.data.module import Again
from experiments.training.module import LanguageModel
from tests.models.ffn.test_contract import NAMES

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount")
ALLOWED = {
    "sort": "the C++ kernel's, of how many rows are distinct; Triton's does not ask",
    "clip_gradients": "whether to scale, on a CPU alone",
    "_adamw_step": "the number of a table's steps, which is in the CPU's memory",
}
WAYS = {
    "dense": (),
    "rows": ("optim.table_gradient=rows",),
    "fused": ("optim.table_gradient=fused", "optim.grad_clip=null"),
    "muon": ("optim=muon",),
}
CASES = [
    *((name, way) for name in NAMES for way in ("dense", "muon")),
    *((name, way) for name in ("pkm", "peer") for way in ("rows", "fused")),
]


class Asked(TorchDispatchMode):
    """Functions of ours in whose lines a number was asked for."""

    def __init__(self):
        super().__init__()
        self.functions = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS or name.startswith("unique"):
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self):
        for frame in reversed(traceback.extract_stack()):
            if "/experiments/" in frame.filename:
                self.functions.add(frame.name)
                return
        self.functions.add("a library")


@pytest.mark.filterwarnings("ignore")  # Lightning's, as training has it
@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_step_asks_for_no_number_but_those_named(make, monkeypatch, name, way):
    point = make(f"model={name}", *WAYS[way])
    asked, step, n_taken = Asked(), LanguageModel.take_step, []

    def watched(self, *arguments, **keywords):
        """Forward and backward passes, clipping and the optimizer are in it."""
        n_taken.append(1)
        if len(n_taken) == 1:  # makes what is made once
            return step(self, *arguments, **keywords)
        with asked, monkeypatch.context() as patch:
            for method in ("tolist", "cpu", "numpy"):  # which no dispatcher sees
                patch.setattr(torch.Tensor, method, _noted(asked, getattr(torch.Tensor, method)))
            return step(self, *arguments, **keywords)

    monkeypatch.setattr(LanguageModel, "take_step", watched)
    module = LanguageModel(point.transformer.build(), point.plan, point.config.optim)
    tokens = torch.arange(64).view(2, 32)
    parts = ("checkpointing", "progress_bar", "model_summary")
    silent = {f"enable_{part}": False for part in parts}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", logger=False, **silent)
    trainer.fit(module, Again(iter([Batch(tokens, tokens)] * 2)))
    assert len(n_taken) == 2
    assert asked.functions <= set(ALLOWED)
    if way == "dense" and name != "none":  # and it sees them
        assert "clip_gradients" in asked.functions


def _noted(asked, method):
    def noting(tensor, *arguments, **keywords):
        asked.note()
        return method(tensor, *arguments, **keywords)

    return noting
