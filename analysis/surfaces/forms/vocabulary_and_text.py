"""`vocabulary` in characters, and with what text is worth going with the vocabulary.

L_u = -E + A1/N_nv^alpha1 + A2/V^alpha2 + B V^-B_V / H^beta. A larger vocabulary makes fewer tokens
of a text, so equal tokens are not equal text; H characters are. And each entry of a larger one is
met less often, so that it takes more text: B_V below 0. Tao 2024 (arXiv:2407.13623), approach 3,
has neither; the other terms are its own.
"""

from analysis.surfaces.floor_and_powers import floor_and_powers
from analysis.surfaces.form import CHARACTERS, OTHERS, SIZE_OF_VOCABULARY

_USUAL = (0.01, 2.0, (0.1, 0.3, 0.6))

FORM = floor_and_powers(
    name="vocabulary_and_text",
    subject="vocabulary",
    formula="L = -E + A1/N_nv^alpha1 + A2/V^alpha2 + B V^-B_V / H^beta, H characters",
    source="this project; terms as in Tao 2024 (arXiv:2407.13623), approach 3",
    columns=(OTHERS, SIZE_OF_VOCABULARY, CHARACTERS),
    edges=("n_non_vocab_params", "vocab_size", "n_characters"),
    terms={
        "A1": {"alpha1": "n_non_vocab_params"},
        "A2": {"alpha2": "vocab_size"},
        "B": {"beta": "n_characters", "B_V": "vocab_size"},
    },
    floor="E",
    sign=-1.0,
    exponents={"alpha1": _USUAL, "alpha2": _USUAL, "beta": _USUAL, "B_V": (-1.0, 1.0, (0.0,))},
    signed=True,
)
