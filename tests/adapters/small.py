"""Random adapters of the tiny Llama of tests/init/tiny.py, in memory and in peft's files."""

import json

import torch

from experiments.adapters import LoRA, LowRank
from tests.init.tiny import tiny

SHAPES = {  # of its linear maps: (d_in, d_out)
    "q_proj": (32, 32),
    "v_proj": (32, 16),
    "gate_proj": (32, 48),
    "down_proj": (48, 32),
}


def path_of(block, name):
    part = "self_attn" if name in ("q_proj", "v_proj") else "mlp"
    return f"model.layers.{block}.{part}.{name}"


def adapter(name, rank, maps=("q_proj", "down_proj"), blocks=(0, 2), seed=0, size=0.3):
    """Float64, so that a float64 model tells a right one from a nearly right one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for block in blocks:
        for one in maps:
            d_in, d_out = SHAPES[one]
            down = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
            up = torch.randn(rank, d_out, generator=generator, dtype=torch.float64)
            found[path_of(block, one)] = LowRank(down=size * down, up=size * up)
    return LoRA(name=name, base=None, maps=found)


def model():
    return tiny("Llama").double()


@torch.no_grad()
def merged(loras, gates):
    """A model whose weights have the sum of gates times the adapters' products in them."""
    changed = model()
    for lora, gate in zip(loras, gates, strict=True):
        for path, low_rank in lora.maps.items():
            weight = changed.get_submodule(path).weight
            weight += gate * low_rank.up.T @ low_rank.down
    return changed


def write_peft(folder, lora, alpha=8.0, **config):
    """peft's files of an adapter, by its published names. The scale alpha / rank is taken out."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {}
    for path, low_rank in lora.maps.items():
        scale = alpha / len(low_rank.down)
        tensors[f"base_model.model.{path}.lora_A.weight"] = low_rank.down.clone()
        tensors[f"base_model.model.{path}.lora_B.weight"] = (low_rank.up.T / scale).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": lora.rank, "lora_alpha": alpha, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def tokens(n=3, length=20, low=3, high=64, seed=0):
    return torch.randint(low, high, (n, length), generator=torch.Generator().manual_seed(seed))
