"""Layers and kernels where torch alone is installed."""

from tests.conftest import python

ALONE = """
import importlib, pkgutil, sys, torch
import experiments.kernels, experiments.models.ffn

for package in (experiments.kernels, experiments.models.ffn):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)

from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig

peer = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)
layer = BesideConfig(frozen=MoEConfig(n_experts=2), trained=peer).build(8)
layer(torch.randn(2, 4, 8)).sum().backward()
others = {"hydra", "omegaconf", "lightning", "wandb", "tokenizers", "pandas", "scipy", "seaborn"}
sys.exit(str(others & sys.modules.keys()) if others & sys.modules.keys() else 0)
"""


def test_layers_and_kernels_need_nothing_beside_torch():
    done = python("-c", ALONE)
    assert done.returncode == 0, done.stderr
