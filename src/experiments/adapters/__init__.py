"""Adapters as layers of experts: PEER as a peft adapter (docs/adapters.md).

What needs the extra [peft] is imported when it is first asked for. Asking for PeerConfig makes it
known to peft, whose own calls then read adapters of it too.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.adapters.peer_tuner import PeerConfig, PeerLayer, PeerModel

__all__ = ["PeerConfig", "PeerLayer", "PeerModel"]

# a name of this package, and its module
_MODULES = {
    "PeerConfig": "peer_tuner",
    "PeerLayer": "peer_tuner",
    "PeerModel": "peer_tuner",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
