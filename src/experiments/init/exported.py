"""Exports with our own modeling file (interchange/) read back, by the trunk's names.

Dense models are exported as a Llama or an Arcee, which huggingface.py reads. The rest says in
config.json what each block holds; its tensors have the trunk's names already.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config import former_trunk
from experiments.config.constraints import Within, checked
from experiments.config.nodes import make_node
from experiments.config.reading import build
from experiments.config.schema import OF_TRUNK
from experiments.init.safetensors_files import WEIGHTS, load_tensors, stored_tensors
from experiments.init.source import Shape
from experiments.models.ffn._base import second_names
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.system.json_files import read_json

MODEL_TYPE = "expert_isoflops"
_LAYER = ("cost", "build")  # what a config of a layer can do
_EARLIER = {  # names of layers in exports from before they were named as in conf/
    "dense": "DenseConfig",
    "none": "NoneConfig",
    "moe": "MoEConfig",
    "pkm": "PKMConfig",
    "peer": "PEERConfig",
    "beside": "BesideConfig",
}
_SIZES = ("num_hidden_layers", "hidden_size", "head_dim", "vocab_size")
FLOAT_EPS = torch.finfo(torch.float32).eps  # what RMSNorm's eps=None is in float32
_SIZE = Annotated[int, Within(1, 2**24)]
_REMEDY = "export the run again"


def layer_node(config: FFNConfig) -> dict[str, Any]:
    """A layer as a node of conf/ has it: its class as `_target_`, and its fields.

    Raises ValueError for a class that can't be imported by its name.
    """
    cls = type(config)
    if cls.__qualname__ != cls.__name__ or not is_dataclass(cls):
        raise ValueError(
            f"{cls.__qualname__} is no dataclass of a module, by whose name an export would find "
            "it; define it at the top of a file"
        )
    return make_node(config)


def _read_layer(node: Any) -> dict[str, Any]:
    """Node, once it is seen to make a layer; also of an earlier export, which had hidden units
    beside the fields. Raises ValueError.
    """
    if isinstance(node, Mapping) and (name := _EARLIER.get(str(node.get("kind")))) is not None:
        kind, parts = node["kind"], {"kind", "d_ff"}
        values = {n: v for n, v in node.items() if n not in parts}
        values = {n: _read_layer(v) if isinstance(v, Mapping) else v for n, v in values.items()}
        node = {"_target_": f"experiments.models.ffn.{kind}.{name}", **values}
    return layer_node(build(node, "ffns", _LAYER))


def _read_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nodes of the trunk's parts; of an earlier export, which had a number of each. Raises
    ValueError.
    """
    given = {name: values[name] for name in (*OF_TRUNK, "rope_base") if name in values}
    if "norm" not in given:
        eps = checked(values["rms_norm_eps"], Annotated[float, Within(0, 1)], "rms_norm_eps")
        given["norm_eps"] = None if eps == FLOAT_EPS else eps
    if "attention" not in given:
        n_kv_heads = checked(values["num_key_value_heads"], _SIZE, "num_key_value_heads")
        given["n_kv_heads"] = n_kv_heads
    nodes = former_trunk.today(given)
    return {name: make_node(build(nodes[name], name, needs)) for name, needs in OF_TRUNK.items()}


def is_export(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an export with our modeling file."""
    return settings.get("model_type") == MODEL_TYPE


def exported_shape(folder: Path) -> Shape:
    """Trunk that carries an export. Raises ValueError if its config.json is none or damaged."""
    path = folder / "config.json"
    try:
        values = read_json(path)
        if not is_export(values):
            raise ValueError(f"its model_type is {values.get('model_type')!r}")
        nodes = tuple(_read_layer(node) for node in values["ffns"])
        n_layers, d_model, d_head, vocab_size = (
            checked(values[name], _SIZE, name) for name in _SIZES
        )
        if len(nodes) != n_layers:
            raise ValueError(f"num_hidden_layers={n_layers}, and ffns are {len(nodes)}")
        return Shape(
            n_layers=n_layers,
            d_model=d_model,
            d_head=d_head,
            vocab_size=vocab_size,
            tie_head=checked(values["tie_word_embeddings"], bool, "tie_word_embeddings"),
            **_read_parts(values),
            ffns=nodes,
            name=values.get("model_name", "dense"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not the config of an export ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error


def exported_state(folder: Path, shape: Shape) -> dict[str, Tensor]:
    """Tensors of an export of that trunk, by its names and of the types that they were saved
    in. One that has several names is under each: a tied head's embedding, values that layers share.

    Raises ValueError if they can't be read.
    """
    state = load_tensors(folder / WEIGHTS, _REMEDY)
    for name, first in second_names(_make_trunk(shape)).items():
        state[name] = state[first]
    return state


def check_export(folder: Path) -> Shape:
    """Trunk, once the headers of the tensors are seen to be its. Raises ValueError if not."""
    shape = exported_shape(folder)
    trunk = _make_trunk(shape)
    wanted = trunk.state_dict()
    for name in second_names(trunk):
        del wanted[name]
    found = {name: tensor.size for name, tensor in stored_tensors(folder).items()}
    for name in sorted(found.keys() | wanted.keys()):
        size = tuple(wanted[name].shape) if name in wanted else None
        if found.get(name) != size:
            raise ValueError(
                f"{folder}: {name} is of size {found.get(name)}, and config.json says {size}; "
                f"{_REMEDY}"
            )
    return shape


def _make_trunk(shape: Shape) -> Transformer:
    """Without values."""
    with torch.device("meta"):
        ffns = tuple(build(node, "ffns", _LAYER) for node in shape.ffns)
        parts = {name: build(getattr(shape, name), name, needs) for name, needs in OF_TRUNK.items()}
        names = ("d_model", "d_head", "vocab_size", "tie_head")
        sizes = {name: getattr(shape, name) for name in names}
        return TransformerConfig(seq_len=1, ffns=ffns, **parts, **sizes).build()
