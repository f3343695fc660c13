"""Which layer each block of a trunk holds."""

from collections.abc import Sequence

from experiments.budget.costs import FFNConfig


def assign_ffns(
    ffn: FFNConfig,
    other: FFNConfig | Sequence[FFNConfig],
    blocks: str | Sequence[int],
    n_layers: int,
) -> tuple[FFNConfig, ...]:
    """Feed-forward configs of n_layers blocks: `ffn` in `blocks`, `other` in the rest.

    other: one for all, or one for each block.
    """
    chosen = chosen_blocks(blocks, n_layers)
    others = other if isinstance(other, Sequence) else (other,) * n_layers
    if len(others) != n_layers:
        raise ValueError(
            f"trunk.base_ffn has {len(others)} layers and the model size={n_layers} blocks; "
            "give one for each block, or one for all"
        )
    return tuple(ffn if i in chosen else others[i] for i in range(n_layers))


def chosen_blocks(blocks: str | Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Blocks that a choice names, in order.

    blocks: middle (index (n_layers - 1) // 2, the paper's one-slot replacement: its 12-block
    model replaces the sixth), all, or a list of indices from 0.
    """
    if blocks == "middle":
        chosen = {(n_layers - 1) // 2}
    elif blocks == "all":
        chosen = set(range(n_layers))
    elif isinstance(blocks, str):
        raise ValueError(f"trunk.ffn_blocks={blocks!r} is not middle, all or a list of indices")
    else:
        chosen = set(blocks)
        if not chosen or not chosen <= set(range(n_layers)):
            raise ValueError(
                f"trunk.ffn_blocks={list(blocks)} must name at least one block, "
                f"and blocks of size={n_layers} are 0 to {n_layers - 1}"
            )
    return tuple(sorted(chosen))
