"""How the next token is chosen. Without torch, so that a command line is refused at once."""

from dataclasses import dataclass
from typing import Annotated

from experiments.config.constraints import Within, check_fields


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature: logits are divided by it; 0 takes the likeliest token, and draws nothing.

    top_p: draws from the fewest tokens, likeliest first, whose probabilities sum to it or more
    (Holtzman 2020, arXiv:1904.09751, §3.1).
    """

    temperature: Annotated[float, Within(0, 1e3)] = 0.0
    top_p: Annotated[float, Within(0, 1, above=True)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError(
                f"top_p={self.top_p} with temperature=0, which draws nothing: it takes the "
                "likeliest token; give temperature=1 too"
            )
