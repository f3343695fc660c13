"""Our trunk, built for the weights of a source."""

from pathlib import Path

from experiments.config.reading import build
from experiments.init.source import Shape, WeightSource
from experiments.models.transformer import Transformer, TransformerConfig


def trunk_config(shape: Shape, seq_len: int = 16) -> TransformerConfig:
    return TransformerConfig(
        d_model=shape.d_model,
        d_head=shape.d_head,
        vocab_size=shape.vocab_size,
        seq_len=seq_len,
        tie_head=shape.tie_head,
        ffns=tuple(build(node, "ffn", ("cost", "build")) for node in shape.ffns),
        positions=build(shape.positions, "positions"),
        norm=build(shape.norm, "norm"),
        attention=build(shape.attention, "attention"),
        residual=build(shape.residual, "residual"),
    )


def loaded(source: WeightSource, cache: Path, seq_len: int = 16) -> Transformer:
    """In evaluation mode. Every name of the state must be the trunk's, and the other way round."""
    model = trunk_config(source.shape(cache), seq_len).build()
    model.load_state_dict(source.state(cache))
    return model.eval()
