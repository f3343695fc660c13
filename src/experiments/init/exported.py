"""Exports with our own modeling file (interchange/) read back, by the trunk's names.

Dense models are exported as a Llama or an Arcee, which huggingface.py reads. The rest says in
config.json what each block holds; its tensors have the trunk's names already.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.constraints import Within, checked
from experiments.config.reading import build
from experiments.init.safetensors_files import stored_tensors
from experiments.init.source import Shape
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig
from experiments.system.json_files import read_json

MODEL_TYPE = "expert_isoflops"
KINDS: Mapping[str, type] = {
    "dense": DenseConfig,
    "none": NoneConfig,
    "moe": MoEConfig,
    "pkm": PKMConfig,
    "peer": PEERConfig,
    "beside": BesideConfig,
}
_SIZES = ("num_hidden_layers", "hidden_size", "head_dim", "num_key_value_heads", "vocab_size")
FLOAT_EPS = torch.finfo(torch.float32).eps  # what RMSNorm's eps=None is in float32
_REMEDY = "export the run again"


def layer_settings(config: FFNConfig, d_model: int) -> dict[str, Any]:
    """A layer as the modeling file reads it: its kind, its fields, and its hidden units if it has.

    Raises ValueError for a layer that the modeling file does not know.
    """
    kind = next((name for name, cls in KINDS.items() if type(config) is cls), None)
    if kind is None:
        raise ValueError(
            f"{type(config).__name__} has no form in the modeling file of exports, which knows "
            f"{', '.join(KINDS)}; add it there (interchange/template) and to init/exported.py"
        )
    if isinstance(config, BesideConfig):
        parts = {f.name: getattr(config, f.name) for f in fields(config)}
        return {"kind": kind, **{n: layer_settings(part, d_model) for n, part in parts.items()}}
    units = {"d_ff": config.d_ff(d_model)} if isinstance(config, (DenseConfig, MoEConfig)) else {}
    return {"kind": kind, **asdict(config), **units}  # type: ignore[call-overload]


def layer_node(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse: the layer's config node, with `_target_`."""
    cls = KINDS[settings["kind"]]
    values = {n: v for n, v in settings.items() if n not in ("kind", "d_ff")}
    if cls is BesideConfig:
        values = {name: layer_node(part) for name, part in values.items()}
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **values}


def is_export(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an export with our modeling file."""
    return settings.get("model_type") == MODEL_TYPE


def exported_shape(folder: Path) -> Shape:
    """The trunk that carries an export. Raises ValueError if its config.json is none or damaged."""
    path = folder / "config.json"
    try:
        values = read_json(path)
        if not is_export(values):
            raise ValueError(f"its model_type is {values.get('model_type')!r}")
        nodes = tuple(layer_node(settings) for settings in values["ffns"])
        eps = checked(values["rms_norm_eps"], Annotated[float, Within(0, 1)], "rms_norm_eps")
        size = Annotated[int, Within(1, 2**24)]
        n_layers, d_model, d_head, n_kv_heads, vocab_size = (
            checked(values[name], size, name) for name in _SIZES
        )
        if len(nodes) != n_layers:
            raise ValueError(f"num_hidden_layers={n_layers}, and ffns are {len(nodes)}")
        return Shape(
            n_layers=n_layers,
            d_model=d_model,
            d_head=d_head,
            n_kv_heads=n_kv_heads,
            vocab_size=vocab_size,
            tie_head=checked(values["tie_word_embeddings"], bool, "tie_word_embeddings"),
            rope_base=checked(values["rope_base"], Annotated[float, Within(1, 1e12)], "rope_base"),
            norm_eps=None if eps == FLOAT_EPS else eps,
            ffns=nodes,
            name=values.get("model_name", "dense"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not the config of an export ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error


def exported_state(folder: Path, tie_head: bool) -> dict[str, Tensor]:
    """The tensors of an export, by the trunk's names and of the types that they were saved in.

    Of a tied head, the embedding under both names. Raises ValueError if they can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} can't be read ({error}); {_REMEDY}") from error
    if tie_head:
        state["head.weight"] = state["embedding.weight"]
    return state


def check_export(folder: Path) -> Shape:
    """The trunk, once the headers of the tensors are seen to be its. Raises ValueError if not."""
    shape = exported_shape(folder)
    with torch.device("meta"):
        ffns = tuple(build(node, "ffns") for node in shape.ffns)
        names = ("d_model", "d_head", "n_kv_heads", "vocab_size", "tie_head", "norm_eps")
        sizes = {name: getattr(shape, name) for name in names}
        wanted = TransformerConfig(seq_len=1, ffns=ffns, **sizes).build().state_dict()
    if shape.tie_head:
        del wanted["head.weight"]
    found = {name: tensor.size for name, tensor in stored_tensors(folder).items()}
    for name in sorted(found.keys() | wanted.keys()):
        size = tuple(wanted[name].shape) if name in wanted else None
        if found.get(name) != size:
            raise ValueError(
                f"{folder}: {name} is of size {found.get(name)}, and config.json says {size}; "
                f"{_REMEDY}"
            )
    return shape


def read_export(folder: Path) -> tuple[Shape, dict[str, Tensor]]:
    """Both of an export with our modeling file: its trunk, and the tensors by the trunk's names."""
    shape = check_export(folder)
    return shape, exported_state(folder, shape.tie_head)
