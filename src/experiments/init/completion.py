"""A config that starts from weights, completed by what the weights say.

conf/init/*.yaml leaves null what only the weights know: how many blocks, how wide, which tokenizer.
Here the nulls become values, so that a record and a manifest hold whole configs, which need no
weights to be read again. A value that the user gives must be that of the weights.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.constraints import AtLeast1, checked, shown
from experiments.config.nodes import find_target, make_node
from experiments.config.reading import build, check_chosen
from experiments.config.schema import OF_TRUNK
from experiments.data.stream import DomainStream
from experiments.init.finished_run import FinishedRun
from experiments.init.how import find_how
from experiments.init.source import Shape, WeightSource
from experiments.models.blocks import chosen_blocks

_METHODS = ("shape", "digest", "tokenizer", "state")
_OWN = "weights"  # of conf/model: the layer that the weights have
Node = dict[str, Any]


def completed(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Config with nothing left to the weights; the same one if it starts from none.

    Raises ValueError for weights that are not there or that the trunk can't carry, and for keys
    that say another thing than they.
    """
    if not isinstance(raw.get("init"), Mapping):
        _check_whole(raw)
        return raw
    if _is_whole(raw):
        return raw
    filled: Node = copy.deepcopy(dict(raw))
    source = _source(filled["init"])
    cache = Path(filled["paths"]["cache"]).expanduser()
    shape = source.shape(cache)
    _check_length(filled["data"], shape)
    for group, name, value in _values(shape):
        node = filled[group] if group else filled
        _fill(node, name, value, f"{group}.{name}" if group else name)
    _fill_base(filled["data"], source)
    _fill_tokenizer(filled, shape, source.tokenizer(cache))
    how = filled["init"].get("how")
    _take_own(filled, shape, how)
    if filled.get("model_name") == _OWN:
        raise ValueError(
            f"init.how={how} puts another layer into the chosen blocks, and model=weights is their "
            "own; give model=NAME, as model=peer, or set init.how=keep"
        )
    _fill(filled["init"], "sha256", source.digest(cache), "init.sha256")
    return filled


def _is_whole(raw: Mapping[str, Any]) -> bool:
    """Whether it was completed before: one that is composed leaves the width to the weights."""
    width = (raw.get("ladder") or {}).get("d_model")
    return raw["init"].get("sha256") is not None and width is not None


def _source(init: Mapping[str, Any]) -> WeightSource:
    check_chosen(init, "init", "weights")
    node = init["weights"]
    if isinstance(node, Mapping) and "path" in node and node["path"] is None:
        raise ValueError("init.path is not set; give init.path=..., the folder of the weights")
    try:
        source: WeightSource = build(node, "init.weights", _METHODS)
    except ValueError as error:  # the name that a user gives
        raise ValueError(str(error).replace("init.weights.path", "init.path")) from None
    return source


def _check_whole(raw: Mapping[str, Any]) -> None:
    """Raises ValueError for a null that nothing fills: ladder=weights is for init alone."""
    if raw.get("model_name") == _OWN:
        raise ValueError(
            "model=weights is the layer of the weights of init, and init=none has none; give "
            "another model, or set init=run, hf or smollm2"
        )
    for part in OF_TRUNK:
        if (raw.get("trunk") or {}).get(part, 0) is None:
            raise ValueError(
                f"{part}=weights is for the weights of init, and init=none has none; give another "
                f"{part}, or set init=run, hf or smollm2"
            )
    ladder = raw.get("ladder")
    if isinstance(ladder, Mapping) and ladder.get("vocab_size", 0) is None:
        raise ValueError(
            f"ladder={ladder.get('name')} leaves ladder.vocab_size to weights, and init=none has "
            "none; set init=run, hf or smollm2, or another ladder"
        )


def _values(shape: Shape) -> tuple[tuple[str, str, Any], ...]:
    """Group, key and value of what the weights say."""
    distinct = [dict(node) for node in shape.ffns]
    same = all(node == distinct[0] for node in distinct)
    return (
        ("", "size", shape.n_layers),
        ("ladder", "d_model", shape.d_model),
        ("ladder", "d_head", shape.d_head),
        ("ladder", "vocab_size", shape.vocab_size),
        ("ladder", "tie_head", shape.tie_head),
        *(("trunk", part, dict(getattr(shape, part))) for part in OF_TRUNK),
        ("trunk", "base_ffn", distinct[0] if same else distinct),
    )


def _fill(node: Node, name: str, value: Any, where: str) -> None:
    given = node.get(name)
    if given is None:
        node[name] = value
    elif given != value:
        raise ValueError(
            f"{where}={_said(given)}, and the weights of init have {_said(value)}; leave {where} "
            "out, and it is theirs"
        )


def _said(value: Any) -> str:
    """A value, or a node by its class and settings, as a message has it."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        return shown(value)
    settings = [f"{k}={shown(v)}" for k, v in value.items() if k != "_target_"]
    return f"{_find_name(value)}({', '.join(settings)})"


def _check_length(data: Node, shape: Shape) -> None:
    longest, seq_len = shape.max_seq_len, data.get("seq_len")
    if longest is not None and isinstance(seq_len, int) and seq_len > longest:
        raise ValueError(
            f"data.seq_len={seq_len}, and the weights of init know sequences of at most {longest} "
            "tokens (sliding_window or max_position_embeddings in their config.json); set "
            f"ladder.seq_len={longest} or less"
        )


def _fill_base(data: Node, source: WeightSource) -> None:
    """What comes before a stream's domains is the text of the run that the weights are of."""
    corpus = data.get("corpus")
    if not isinstance(corpus, Mapping) or corpus.get("_target_") != find_target(DomainStream):
        return
    if corpus.get("base") is None and isinstance(source, FinishedRun):
        data["corpus"] = {**corpus, "base": source.corpus()}


def _fill_tokenizer(filled: Node, shape: Shape, own: Mapping[str, Any]) -> None:
    """Weights' own tokenizer, unless another of as many entries is asked for."""
    data = filled["data"]
    if data.get("tokenizer") is None:
        data["tokenizer"] = dict(own)
    if data["tokenizer"].get("vocab_size", 0) is None:
        raise ValueError(
            "data.tokenizer.vocab_size is not set, and the weights of init know "
            f"{shape.vocab_size} entries; leave tokenizer out, and it is theirs, or set "
            f"ladder.vocab_size={shape.vocab_size}"
        )
    n_entries = build(data["tokenizer"], "data.tokenizer", ("n_entries", "make")).n_entries()
    model = filled.get("model")
    if isinstance(model, dict) and model.get("vocab_size", 0) is None:
        model["vocab_size"] = n_entries  # a layer's rows, one for each id
    if n_entries > shape.vocab_size:
        raise ValueError(
            f"data.tokenizer has {n_entries} entries, and the weights of init know "
            f"{shape.vocab_size}; leave tokenizer out, and it is theirs"
        )


def _take_own(filled: Node, shape: Shape, name: Any) -> None:
    """Makes the studied layer the weights' own, if the way says so; where it grows, with as many
    experts as asked.
    """
    how = find_how(name)
    blocks = chosen_blocks(filled["trunk"]["ffn_blocks"], shape.n_layers)
    own = [dict(shape.ffns[i]) for i in blocks]
    layer = build(own[0], "model", ("cost", "build"))
    if not how.is_own(layer):
        return
    if any(node != own[0] for node in own):
        raise ValueError(
            f"init.how={name} with trunk.ffn_blocks={filled['trunk']['ffn_blocks']}: these blocks "
            "hold different layers, and one is under study; name blocks of one kind"
        )
    if how.grows(layer):
        n_experts = checked(filled.get("n_experts"), AtLeast1 | None, "n_experts")
        if n_experts is None:
            raise ValueError(
                f"init.how={name} wants to know how many experts there shall be: give n_experts=..."
            )
        own[0] = make_node(how.grown(layer, n_experts))
    _check_given(filled, own[0], name, how.grows(layer))
    filled["model"], filled["model_name"] = own[0], shape.name
    filled["n_experts"] = own[0].get("n_experts")


def _check_given(filled: Node, own: Mapping[str, Any], how: str, grows: bool) -> None:
    """Raises ValueError for a layer, or a part of it, that is not the weights' own."""
    node = filled.get("model") or {}
    given = [*node.items()] if isinstance(node, Mapping) else []
    given += [("n_experts", filled.get("n_experts"))]
    what = "own layer with more experts" if grows else "own layer"
    for name, value in given:
        if (value is None and name == "n_experts") or own.get(name) == value:
            continue
        if name == "_target_":
            key, theirs = f"model={filled.get('model_name')}", f"is {_find_name(own)}"
        else:
            key = f"{name if name == 'n_experts' else f'model.{name}'}={shown(value)}"
            theirs = f"has {shown(own[name]) if name in own else 'none'}"
        raise ValueError(
            f"{key} with init.how={how}: the blocks hold the weights' {what}, which {theirs}; "
            f"leave model{'' if grows else ' and n_experts'} out, or set another init.how"
        )


def _find_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2].removesuffix("Config")
