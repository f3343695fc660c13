"""A LoRA as peft keeps one: adapter_config.json and adapter_model.safetensors, for any base."""

import json
from pathlib import Path
from typing import Any

import torch

from experiments.adapters.lora_files import CONFIG, PREFIX, WEIGHTS, LoRA, read_lora
from experiments.init.reading import from_extra
from experiments.system.disk import OTHER_FOLDER, explained, reached, whole_folder, write_text


def save_lora(lora: LoRA, folder: Path | str, base: str | None = None) -> Path:
    """Writes an adapter as a new folder that peft.PeftModel.from_pretrained and read_lora take.

    base: name of the base model, for peft's own use. Raises ValueError for a folder that exists,
    and RuntimeError if it can't be written.
    """
    folder = reached(Path(folder).expanduser().absolute())
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder, or delete it")
    with explained(folder, OTHER_FOLDER), whole_folder(folder) as new:
        write_lora(lora, new, base)
    return folder


def write_lora(lora: LoRA, folder: Path, base: str | None = None) -> None:
    """Both files, in a folder that is there; read back, to be the same adapter."""
    safetensors = from_extra("safetensors.torch", "an adapter in a folder")
    tensors = {}
    for path, low_rank in lora.maps.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = low_rank.down.detach().clone().contiguous()
        tensors[f"{PREFIX}{path}.lora_B.weight"] = low_rank.up.detach().T.clone().contiguous()
    safetensors.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(_config(lora, base), indent=1) + "\n")
    read = read_lora(folder, lora.name).maps
    if read.keys() != lora.maps.keys() or not all(
        torch.equal(read[path].down, one.down) and torch.equal(read[path].up, one.up)
        for path, one in lora.maps.items()
    ):
        raise RuntimeError(f"{folder}: the adapter read back is not the one written")


def _config(lora: LoRA, base: str | None) -> dict[str, Any]:
    """A scale of 1 beside each map: lora_alpha is its rank there."""
    ranks = {path: len(low_rank.down) for path, low_rank in lora.maps.items()}
    others = {path: rank for path, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(ranks),
    }
