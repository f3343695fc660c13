"""Adapters: PEER as a method of peft, and libraries of LoRAs that are found at run time.

(docs/adapters.md.) Each name is imported when it is first asked for: PeerConfig needs the extra
[peft], and asking for it makes it known to peft, whose own calls then read adapters of it too.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.adapters.library import LoRALibrary, find_library, lora_library
    from experiments.adapters.lora_files import LoRA, LowRank, read_lora
    from experiments.adapters.merging import lower_rank, merge_in, merge_loras
    from experiments.adapters.peer_tuner import PeerConfig, PeerLayer, PeerModel
    from experiments.adapters.peft_folder import save_lora
    from experiments.adapters.prototypes import add_text, by_text, learn
    from experiments.adapters.storage import load_library, save_library

__all__ = [
    "LoRA",
    "LoRALibrary",
    "LowRank",
    "PeerConfig",
    "PeerLayer",
    "PeerModel",
    "add_text",
    "by_text",
    "find_library",
    "learn",
    "load_library",
    "lora_library",
    "lower_rank",
    "merge_in",
    "merge_loras",
    "read_lora",
    "save_library",
    "save_lora",
]

# a name of this package, and its module
_MODULES = {
    **dict.fromkeys(("LoRALibrary", "find_library", "lora_library"), "library"),
    **dict.fromkeys(("LoRA", "LowRank", "read_lora"), "lora_files"),
    **dict.fromkeys(("lower_rank", "merge_in", "merge_loras"), "merging"),
    "save_lora": "peft_folder",
    **dict.fromkeys(("PeerConfig", "PeerLayer", "PeerModel"), "peer_tuner"),
    **dict.fromkeys(("add_text", "by_text", "learn"), "prototypes"),
    **dict.fromkeys(("load_library", "save_library"), "storage"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
