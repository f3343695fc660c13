"""Whether the contenders compute the same, which is looked at before they are timed."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.rivals import NAIVE, PEER_PYTORCH, PRODUCT_KEY_MEMORY
from experiments.kernels.ops import Execution

_MIN_AGREEMENT = 0.99  # of tokens


def check_agreement(case: Case, names: Collection[str]) -> list[str]:
    """How far the rivals' outputs are from ours. In float32 they have to be the same, or it is
    not the same layer that is timed; under autocast the rivals score keys in bfloat16, and so
    retrieve other experts. Raises RuntimeError.
    """
    case.peer.execution = case.pkm.execution = Execution()
    pairs = {
        PEER_PYTORCH: (lambda: case.peer, lambda: case.peer_rival),
        PRODUCT_KEY_MEMORY: (lambda: case.pkm, lambda: case.pkm_rival),
        NAIVE: (lambda: case.peer, lambda: case.naive),
    }
    exact = case.settings.table_dtype == torch.float32
    why = "near ties" if exact else "its queries and scores are bfloat16: other experts"
    lines = []
    for name, (ours_of, rival_of) in pairs.items():
        if name not in names:
            continue
        ours, rival = ours_of(), rival_of()
        with case.settings.autocast():
            furthest, apart = _disagreement(ours, rival, case.x)
        if exact and 1 - apart < _MIN_AGREEMENT:
            raise RuntimeError(
                f"{name} computes something else: {apart:.1%} of the tokens differ, "
                f"by up to {furthest:.2g} of the largest output"
            )
        lines.append(
            f"{name}'s output and ours: {furthest:.2g} of the largest apart at most, "
            f"{apart:.2%} of the tokens by more than 1e-4 ({why})"
        )
    return lines


Passed = tuple[float, Mapping[str, Tensor]]  # a loss, and gradients by name


def check_passes(found: Mapping[str, tuple[Passed, float]], wanted: Passed) -> list[str]:
    """How far losses and gradients are from those wanted: a line about each contender, whose
    gradients may be as far apart as the number beside its own says. Raises RuntimeError.

    Of gradients: the norm of all differences together, over that of all that are wanted.
    """
    whole = _norm(wanted[1])
    lines = []
    for name, ((loss, gradients), allowed) in found.items():
        if odd := gradients.keys() ^ wanted[1].keys():
            raise RuntimeError(f"{name} has other parameters: {', '.join(sorted(odd))}")
        apart = _norm({key: gradients[key] - g for key, g in wanted[1].items()}) / whole
        of_loss = abs(loss - wanted[0]) / abs(wanted[0])
        if not (apart <= allowed and of_loss <= allowed):  # nor nan
            raise RuntimeError(
                f"{name} computes something else: gradients {apart:.2g} of their norm apart, and "
                f"losses {of_loss:.2g}; allowed are {allowed:g}"
            )
        lines.append(f"{name}: gradients {apart:.2g} of their norm apart, losses {of_loss:.2g}")
    return lines


def _norm(gradients: Mapping[str, Tensor]) -> float:
    norms = [g.to_dense().double().norm() for g in gradients.values()]
    return float(torch.stack(norms).norm())


@torch.no_grad()
def _disagreement(ours: nn.Module, rival: nn.Module, x: Tensor) -> tuple[float, float]:
    """How far the outputs are apart: the maximal difference over the maximal output, and the
    share of tokens that differ by more than 1e-4 of it.

    Two scores that are equal but for rounding may be ranked either way, and then a token's last
    expert is another; that happens to a few in 10 000 tokens.
    """
    a, b = ours(x).float(), rival(x).float()
    scale = b.abs().max()
    by_token = (a - b).abs().amax(-1) / scale
    return float(by_token.max()), float((by_token > 1e-4).float().mean())
