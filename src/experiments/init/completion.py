"""A config that starts from weights, completed by what the weights say.

conf/init/*.yaml leaves null what only the weights know: how many blocks, how wide, which tokenizer.
Here the nulls become values, so that a record and a manifest hold whole configs, which need no
weights to be read again. A value that the user gives must be that of the weights.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.reading import build
from experiments.data.stream import DomainStream
from experiments.init.finished_run import FinishedRun
from experiments.init.growth import can_grow, grown_config
from experiments.init.source import Shape, WeightSource, node_of, target_of
from experiments.models.transformer import chosen_blocks

_METHODS = ("shape", "digest", "tokenizer", "state")
Node = dict[str, Any]


def completed(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with nothing left to the weights; the same one if it starts from none.

    Raises ValueError for weights that are not there or that the trunk can't carry, and for keys
    that say another thing than they.
    """
    if not isinstance(raw.get("init"), Mapping):
        _check_whole(raw)
        return raw
    if raw["init"].get("sha256") is not None:
        return raw
    filled: Node = copy.deepcopy(dict(raw))
    source: WeightSource = build(filled["init"].get("weights"), "init.weights", _METHODS)
    cache = Path(filled["paths"]["cache"]).expanduser()
    shape = source.shape(cache)
    _check_length(filled["data"], shape)
    for group, name, value in _values(shape):
        node = filled[group] if group else filled
        _fill(node, name, value, f"{group}.{name}" if group else name)
    _fill_base(filled["data"], source)
    _fill_tokenizer(filled, shape, source.tokenizer(cache))
    how = filled["init"].get("how")
    if how in ("keep", "bias", "copies"):
        _take_own(filled, shape, how)
    filled["init"]["sha256"] = source.digest(cache)
    return filled


def _check_whole(raw: Mapping[str, Any]) -> None:
    """Raises ValueError for a null that nothing fills: ladder=weights is for init alone."""
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
        ("trunk", "rope_base", shape.rope_base),
        ("trunk", "norm_eps", shape.norm_eps),
        ("trunk", "n_kv_heads", shape.n_kv_heads),
        ("trunk", "base_ffn", distinct[0] if same else distinct),
    )


def _fill(node: Node, name: str, value: Any, where: str) -> None:
    given = node.get(name)
    if given is None:
        node[name] = value
    elif given != value:
        raise ValueError(
            f"{where}={shown(given)}, and the weights of init have {shown(value)}; leave {where} "
            "out, and it is theirs"
        )


def _check_length(data: Node, shape: Shape) -> None:
    longest, seq_len = shape.max_seq_len, data.get("seq_len")
    if longest is not None and isinstance(seq_len, int) and seq_len > longest:
        raise ValueError(
            f"data.seq_len={seq_len}, and attention in the weights of init has a window of "
            f"{longest}, which the trunk has not; set ladder.seq_len={longest} or less"
        )


def _fill_base(data: Node, source: WeightSource) -> None:
    """What comes before a stream's domains is the text of the run that the weights are of."""
    corpus = data.get("corpus")
    if not isinstance(corpus, Mapping) or corpus.get("_target_") != target_of(DomainStream):
        return
    if corpus.get("base") is None and isinstance(source, FinishedRun):
        data["corpus"] = {**corpus, "base": source.corpus()}


def _fill_tokenizer(filled: Node, shape: Shape, own: Mapping[str, Any]) -> None:
    """The weights' own tokenizer, unless another of as many entries is asked for."""
    data = filled["data"]
    if data.get("tokenizer") is None:
        data["tokenizer"] = dict(own)
    n_entries = build(data["tokenizer"], "data.tokenizer", ("n_entries", "make")).n_entries()
    if n_entries > shape.vocab_size:
        raise ValueError(
            f"data.tokenizer has {n_entries} entries, and the weights of init know "
            f"{shape.vocab_size}; leave tokenizer out, and it is theirs"
        )


def _take_own(filled: Node, shape: Shape, how: str) -> None:
    """The layer under study is the weights' own; where it grows, with as many experts as asked."""
    blocks = chosen_blocks(filled["trunk"]["ffn_blocks"], shape.n_layers)
    own = [dict(shape.ffns[i]) for i in blocks]
    layer = build(own[0], "model", ("cost", "build"))
    if how == "copies" and not can_grow(layer):
        return  # of a layer's neurons: the layer under study is another
    if any(node != own[0] for node in own):
        raise ValueError(
            f"init.how={how} with trunk.ffn_blocks={filled['trunk']['ffn_blocks']}: these blocks "
            "hold different layers, and one is under study; name blocks of one kind"
        )
    if how != "keep":
        n_experts = filled.get("n_experts")
        if not isinstance(n_experts, int):
            raise ValueError(
                f"init.how={how} wants to know how many experts there shall be: give n_experts=..."
            )
        own[0] = node_of(grown_config(layer, n_experts, how))
    filled["model"], filled["model_name"] = own[0], shape.name
    filled["n_experts"] = own[0].get("n_experts")
