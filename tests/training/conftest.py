"""How the trunk of a test's run is compiled."""

import pytest
import torch


@pytest.fixture
def eager_backend(monkeypatch):
    """torch.compile with all of its tracing, and without inductor's code and its seconds."""
    whole = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: whole(f, **options | {"backend": "aot_eager"})
    )
