"""Small models of every layer, a vocabulary and a record, to be exported in the tests."""

import math
from dataclasses import replace

import torch

from experiments.config.reading import build
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import prepare_vocabulary
from experiments.interchange.card import model_card
from experiments.interchange.folder import write_export
from experiments.interchange.forms import find_form
from experiments.models.attention.gqa import GQAConfig
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.models.norms.layer import LayerNormConfig
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.positions.alibi import ALiBi
from experiments.models.positions.nope import NoPE
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import TransformerConfig
from experiments.records.record import RunRecord
from tests.conftest import Nursery

VOCABULARY = 270
CHANNELS = {"n_experts": 64, "n_channels": 4, "top_k": 3, "d_key": 8}
KEYS = {"n_experts": 64, "n_heads": 2, "top_k": 3, "d_key": 8}
THEIRS = {
    "score": "raw", "key_norm": "rms", "query_norm": "none", "share_keys": False,
    "heads_per_query": 2, "value_factor": 0.5,
}  # fmt: skip
PEER_OPTIONS = {
    **KEYS,
    "n_experts": 72,
    "d_query_rank": 6,
    "share_experts": False,
    "output_gate": True,
    "shared_width_factor": 1.5,
    "blocks_share_keys": True,
}
FINE = {"routing": "token_choice", "granularity": 4}
# name: the layers of its blocks, and what its trunk has beside the defaults
MODELS = {
    "dense": ((DenseConfig(),) * 2, {}),
    "dense_glu": ((DenseConfig(glu=True, activation="silu", width_factor=8 / 3),) * 2, {}),
    "dense_relu": (
        (DenseConfig(activation="relu"),) * 2,
        {"tie_head": True, "attention": GQAConfig(n_kv_heads=2)},
    ),
    "dense_linear": ((DenseConfig(activation="identity"),), {"norm": RMSNormConfig(eps=1e-4)}),
    "dense_tanh": ((DenseConfig(activation="gelu_tanh"),), {}),
    "dense_mixed": ((DenseConfig(), DenseConfig(glu=True)), {"positions": RoPE(base=1e5)}),
    "none": ((NoneConfig(), DenseConfig()), {"attention": GQAConfig(n_kv_heads=1)}),
    "moe": ((MoEConfig(n_experts=4), DenseConfig()), {}),
    "moe_fine": (
        (MoEConfig(n_experts=8, top_k=3, gate="sigmoid", n_shared_experts=2, **FINE),) * 2,
        {},
    ),
    "moe_top1": ((MoEConfig(n_experts=4, **FINE),), {"tie_head": True}),
    "pkm": ((PKMConfig(**KEYS), DenseConfig()), {}),
    "pkm_own": ((PKMConfig(**KEYS, share_keys=False, score="sigmoid"), NoneConfig()), {}),
    "peer": ((PEERConfig(**KEYS), DenseConfig()), {"tie_head": True}),
    "peer_glu": (
        (PEERConfig(**KEYS, glu=True, query_norm="layer", score="relu", activation="silu"),) * 2,
        {"attention": GQAConfig(n_kv_heads=2), "norm": RMSNormConfig(eps=1e-5)},
    ),
    "peer_grown": ((PEERConfig(**KEYS, n_first_keys=16), DenseConfig()), {}),
    "pkm_grown": ((PKMConfig(**KEYS, n_first_keys=4, share_keys=False), NoneConfig()), {}),
    "peer_half": ((PEERConfig(**KEYS, query_norm="none", table_dtype="bfloat16"),), {}),
    "peer_options": (
        (PEERConfig(**PEER_OPTIONS), DenseConfig(), PEERConfig(**PEER_OPTIONS)),
        {},
    ),
    "memory_plus": ((MemoryPlusConfig(**KEYS), DenseConfig()), {"tie_head": True}),
    "memory_shared": (
        (MemoryPlusConfig(**KEYS, share_values=True), DenseConfig())
        + (MemoryPlusConfig(**KEYS, share_values=True),) * 2,
        {},
    ),
    "peer_narrow": ((PeerNarrowConfig(**KEYS, d_value=8), DenseConfig()), {}),
    "sgatlin": ((SgatlinConfig(**CHANNELS), DenseConfig()), {"tie_head": True}),
    "sgatlin_grown": ((SgatlinConfig(**CHANNELS, n_first_keys=8, activation="gelu"),), {}),
    "stem": ((StemConfig(vocab_size=VOCABULARY), DenseConfig()), {"tie_head": True}),
    "ultramem": ((UltraMemConfig(**KEYS, **THEIRS), DenseConfig()), {}),
    "alibi": (
        (DenseConfig(glu=True),) * 2,
        {"positions": ALiBi(), "attention": GQAConfig(n_kv_heads=2)},
    ),
    "nope": ((PEERConfig(**KEYS), DenseConfig()), {"positions": NoPE(), "tie_head": True}),
    "layer_norm": ((DenseConfig(), PKMConfig(**KEYS)), {"norm": LayerNormConfig()}),
    "beside": (
        (BesideConfig(frozen=DenseConfig(glu=True), trained=PEERConfig(**KEYS)), DenseConfig()),
        {},
    ),
}
CAUSAL = [name for name in MODELS if name != "moe"]
NATIVE = {
    "dense": "Arcee", "dense_glu": "Llama", "dense_relu": "Arcee", "dense_linear": "Arcee",
    "dense_tanh": "Arcee",
}  # fmt: skip


def built(name, **options):
    """Model in evaluation mode, with nothing left at a value that it starts with."""
    ffns, trunk = MODELS[name]
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": VOCABULARY, "seq_len": 32}
    config = TransformerConfig(**{"tie_head": False, **sizes, **trunk, "ffns": ffns, **options})
    torch.manual_seed(sum(map(ord, name)))
    return perturbed(config.build().eval())


def perturbed(model):
    """Same model with nothing left at a value that it starts with."""
    with torch.no_grad():
        for own, tensor in model.state_dict().items():
            if own.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor += 0.1 * torch.randn(tensor.shape).to(tensor.dtype)
    return model


def vocabulary_in(cache):
    return prepare_vocabulary(TrainedBPE(vocab_size=VOCABULARY), Nursery(), cache)


def record_of(model, name="peer", **values):
    """A record of a run that trained the model for a moment."""
    cost, config = model.config.cost(), model.config
    known = {
        "run_id": "0123456789ab", "sweep": "s", "status": "done", "model": name, "seed": 0,
        "budget": 1e9, "n_layers": len(config.ffns), "d_model": config.d_model, "n_experts": None,
        "n_params": cost.n_params, "n_active_params": cost.n_active_params,
        "n_non_embedding_params": cost.n_non_embedding_params,
        "flops_per_token": cost.training_flops, "flops_shares": {}, "planned_flops": 1e9,
        "n_steps": 10, "batch_tokens": 128, "n_tokens": 1280, "lr": 1e-2, "causal_eval": True,
        "val_loss": 2.5, "perplexity": math.exp(2.5), "bits_per_byte": 1.25,
        "config": {"data": {"corpus": {"_target_": "tests.conftest.Nursery"}, "seq_len": 32}},
    }  # fmt: skip
    return replace(RunRecord(**known), **values)


def exported(model, folder, vocabulary, name="peer", **values):
    """Writes the folder; returns its form."""
    form = find_form(model, name, vocabulary.end_of_text)
    record = record_of(model, name, **values)
    masked = model.config.document_end is not None
    write_export(folder, form, vocabulary, record, model_card(record, form, masked=masked))
    return form


def of_node(node):
    return build(node, "ffn")
