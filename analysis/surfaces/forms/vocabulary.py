"""Unigram-normalized loss in the parameters of the vocabulary and the others, and tokens: Tao 2024
(arXiv:2407.13623), approach 3, as in the authors' code (sail-sg/scaling-with-vocab, approach3).

L_u = -E + A1/N_nv^alpha1 + A2/N_v^alpha2 + B/D^beta. It is the loss less that of a unigram model of
the same tokens, so that it does not grow with the vocabulary alone, and is negative. N_v is the
vocabulary times the width. Where a table has FLOPs in place of tokens, D is
FLOPs / (6 (N_nv + N_v)), as in that code, which also holds alpha1 = beta; here all are fitted.
"""

from analysis.surfaces.floor_and_powers import floor_and_powers
from analysis.surfaces.form import OTHERS, TOKENS, VOCABULARY

FORM = floor_and_powers(
    name="vocabulary",
    subject="vocabulary",
    formula="L = -E + A1/N_nv^alpha1 + A2/N_v^alpha2 + B/D^beta",
    source="Tao 2024 (arXiv:2407.13623), approach 3",
    columns=(OTHERS, VOCABULARY, TOKENS),
    edges=("n_non_vocab_params", "n_vocab_params", "n_tokens"),
    terms={
        "A1": {"alpha1": "n_non_vocab_params"},
        "A2": {"alpha2": "n_vocab_params"},
        "B": {"beta": "n_tokens"},
    },
    floor="E",
    sign=-1.0,
    exponents=dict.fromkeys(("alpha1", "alpha2", "beta"), (0.01, 2.0, (0.1, 0.3, 0.6))),
    signed=True,
)
