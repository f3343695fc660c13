"""Fine-grained mixture that parts take steps of."""

from experiments.models.ffn.moe import MoEConfig


def fine_moe(n_experts: int) -> MoEConfig:
    """Two of n_experts a token, of granularity 4, balanced by a bias."""
    return MoEConfig(
        n_experts=n_experts,
        routing="token_choice",
        top_k=2,
        gate="sigmoid",
        granularity=4.0,
        balance="bias",
        balance_rate=1e-3,
    )
