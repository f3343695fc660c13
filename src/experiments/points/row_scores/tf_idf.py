"""TF-IDF, c_i / sum c * log((n + 1) / (d_i + 1)): rows that the batch retrieves much, and text of
before little (Lin 2025, arXiv:2510.15103, Section 3).
"""

import torch
from torch import Tensor

from experiments.points.row_scores import RowUse


def score(use: RowUse) -> Tensor:
    """(N,) of c_i retrievals in the batch, and d_i of n background batches."""
    frequency = use.counts / use.counts.sum().clamp_min(1)
    return frequency * torch.log((use.n_documents + 1) / (use.documents + 1.0))
