"""`vocabulary` with characters for tokens: Tao 2024 (arXiv:2407.13623), approach 3.

A larger vocabulary makes fewer tokens of a text, so equal tokens are not equal text. Characters
are; the paper has them as the amount of data that runs of several vocabularies are compared at.
"""

from analysis.surfaces.floor_and_powers import floor_and_powers
from analysis.surfaces.form import CHARACTERS, OTHERS, VOCABULARY

FORM = floor_and_powers(
    name="vocabulary_characters",
    subject="vocabulary",
    formula="L = -E + A1/N_nv^alpha1 + A2/N_v^alpha2 + B/H^beta, H characters",
    source="Tao 2024 (arXiv:2407.13623), approach 3, in characters",
    columns=(OTHERS, VOCABULARY, CHARACTERS),
    edges=("n_non_vocab_params", "n_vocab_params", "n_characters"),
    terms={
        "A1": {"alpha1": "n_non_vocab_params"},
        "A2": {"alpha2": "n_vocab_params"},
        "B": {"beta": "n_characters"},
    },
    floor="E",
    sign=-1.0,
    exponents=dict.fromkeys(("alpha1", "alpha2", "beta"), (0.01, 2.0, (0.1, 0.3, 0.6))),
    signed=True,
)
