"""Low-rank adapters (LoRA, Hu 2021, arXiv:2106.09685) as they are kept: peft's folders, our runs.

Nothing is unpickled: an adapter of somebody else may come as a safetensors file only.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.config.constraints import shown
from experiments.init.finished_run import FinishedRun
from experiments.init.safetensors_files import load_tensors
from experiments.records.files import RECORD_NAME
from experiments.system.json_files import read_json

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # peft's, before a module's path below the model
_PART = re.compile(r"^(?P<path>.+)\.lora_(?P<side>[AB])\.weight$")
# of the patterns that peft takes, those whose parts match one character each: linear in a path
_LINEAR = re.compile(r"(?:[\w.|^$-]|\\[.dw-]|\[(?:\w-\w|\w)+\])+")
_LONGEST = 256  # characters
_FLAGS = {  # of adapter_config.json: what makes of an adapter more than two matrices a module
    "use_dora": "DoRA's magnitudes",
    "modules_to_save": "trained copies of whole modules",
    "trainable_token_indices": "trained embeddings of tokens",
    "target_parameters": "adapters of parameters that are no module's weight",
    "layer_replication": "repeated blocks",
    "arrow_config": "a router over other adapters",
    "alora_invocation_tokens": "a start at chosen tokens",
    "use_bdlora": "block-diagonal matrices",
    "megatron_config": "Megatron's parallel layers",
}
# starts that take what the adapter begins with out of the base's weights
_MOVED = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """An adapter's addition to one linear map: x (.., d_in) to (x downᵀ) up.

    down (rank, d_in): peft's A. up (rank, d_out): the transpose of its B, times its scale. Both
    float32, or float64 where they are stored so. Row j of both is a component: a neuron without
    activation that reads down_j and writes up_j.
    """

    down: Tensor
    up: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        return self.down.shape[1], self.up.shape[1]


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """An adapter. maps: by the path, below the base model, of the linear map it is beside.

    base: the sha256 of the weights that it was trained on; None where nobody noted it, as peft.
    """

    name: str
    base: str | None
    maps: Mapping[str, LowRank]

    @property
    def rank(self) -> int:
        """Largest of its maps."""
        return max(len(low_rank.down) for low_rank in self.maps.values())


def read_lora(folder: Path | str, name: str | None = None) -> LoRA:
    """Adapter in a folder: of peft, or of a finished run of ours with init.train=lora.

    name: what it is called from now on; None: as the folder. Raises ValueError, in one line, for
    what is no adapter, is not whole, has to be unpickled, or is more than pairs of matrices.
    """
    folder = Path(folder).expanduser()
    name = folder.resolve().name if name is None else name
    if (folder / CONFIG).is_file():
        return _of_peft(folder, name)
    if (folder / RECORD_NAME).is_file():
        return _of_run(folder, name)
    raise ValueError(
        f"{folder} has neither {CONFIG} (a folder of peft) nor {RECORD_NAME} (a run of ours); name "
        "a folder with an adapter"
    )


def _of_run(folder: Path, name: str) -> LoRA:
    base, matrices = FinishedRun(path=str(folder)).adapters()
    if not matrices:
        raise ValueError(f"{folder} is a run without adapters; train one with init.train=lora")
    maps = {path: LowRank(down=a, up=b.T.contiguous()) for path, (a, b) in matrices.items()}
    return LoRA(name=name, base=base, maps=maps)


def _of_peft(folder: Path, name: str) -> LoRA:
    config = _config(folder)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder).items():
        part = _PART.match(key.removeprefix(PREFIX))
        if part is None or tensor.dim() != 2 or not tensor.is_floating_point():
            raise ValueError(
                f"{folder / WEIGHTS} holds {key} {tuple(tensor.shape)}, which is not a matrix "
                "lora_A or lora_B of floats beside a linear map; only those can be in a library"
            )
        found.setdefault(part["path"], {})[part["side"]] = tensor
    if not found:
        raise ValueError(f"{folder / WEIGHTS} holds no adapter; save it with save_pretrained")
    maps = {}
    scales = _scales(folder / CONFIG, config, len(found))
    for path, sides in found.items():
        if len(sides) < 2 or not 0 < sides["A"].shape[0] == sides["B"].shape[1]:
            shapes = {side: tuple(tensor.shape) for side, tensor in sides.items()}
            raise ValueError(f"{folder / WEIGHTS}: {path} has no A and B of one rank: {shapes}")
        rank = len(sides["A"])
        alpha = next((alpha for known, alpha in scales if known.match(path)), scales[-1][1])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)  # arXiv:2312.03732
        maps[path] = LowRank(down=_wide(sides["A"]), up=_wide(sides["B"]).T.contiguous() * scale)
    return LoRA(name=name, base=None, maps=maps)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = read_json(path)
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no config of an adapter: {error}") from None
    if kind != "LORA":
        raise ValueError(
            f"{path}: peft_type={str(kind)[:40]} is not LORA; a library is made of LoRAs"
        )
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise ValueError(f"{path}: the adapter has biases; only those without can be in a library")
    for flag, what in _FLAGS.items():
        if config.get(flag):
            raise ValueError(f"{path}: {flag} means {what}; only plain LoRAs can be in a library")
    if str(start := config.get("init_lora_weights")).lower().startswith(_MOVED):
        raise ValueError(
            f"{path}: init_lora_weights={shown(start)} changed the base's weights, and a library "
            "leaves them; have it saved with save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=...), which gives a plain LoRA"
        )
    return config


_Scales = list[tuple[re.Pattern[str], float]]


def _scales(path: Path, config: Mapping[str, Any], n_maps: int) -> _Scales:
    """lora_alpha of the maps whose paths a pattern matches: the first that does. The last is of
    all.

    Raises ValueError for one that is no number, and for a pattern that could take long to match.
    """
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{path}: alpha_pattern={shown(patterns)} must be a group of keys")
    for pattern in patterns:
        if len(pattern) > _LONGEST or not _LINEAR.fullmatch(pattern):
            raise ValueError(
                f"{path}: alpha_pattern has {shown(pattern[:_LONGEST])}, and of regular "
                f"expressions only names of up to {_LONGEST} characters are read, with . \\. \\d "
                "[0-9] and | in them: one with * + or ( can take without end to match; write the "
                "modules' names"
            )
    if len(patterns) * n_maps > 10**7:
        raise ValueError(f"{path}: alpha_pattern has {len(patterns)} keys for {n_maps} maps")
    given = {**patterns, ".*": config.get("lora_alpha", 8)}
    for alpha in given.values():
        if type(alpha) not in (int, float) or not abs(alpha) <= 1e9:  # NaN too
            raise ValueError(f"{path}: the scale {shown(alpha)} must be a number of at most 1e9")
    try:
        return [(re.compile(rf"(.*\.)?({name})$"), float(alpha)) for name, alpha in given.items()]
    except re.error as error:
        raise ValueError(f"{path}: alpha_pattern {shown(error.pattern)}: {error}") from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / PICKLED).exists():
            raise ValueError(
                f"{folder} has its weights in {PICKLED}, and reading that may run code; have it "
                "saved again as safetensors (save_pretrained's default)"
            )
        raise ValueError(f"{folder} has no {WEIGHTS}; get the adapter again")
    return load_tensors(path)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype.itemsize == 8 else tensor.float()
