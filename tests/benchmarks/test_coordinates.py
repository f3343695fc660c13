"""The coordinate check of every conf/model/*.yaml: a new layer is checked without a new test."""

from dataclasses import replace

import pytest

from experiments.benchmarks.coordinates import Subject, check_coordinates
from experiments.config.paths import conf_dir
from experiments.config.reading import build
from experiments.gpu.loop import OPTIM
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig

NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
# fewer experts than the yaml has, so that five widths fit; of other layers with experts 16
SMALL = {
    "moe": {"n_experts": 4},
    "peer": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
    "pkm": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
}
LR, BASE = 2e-3, 64


@pytest.fixture
def subjects(compose_raw):
    """subjects("peer", ...)(d_model): two blocks of it, under that parametrization."""

    def of(name, parametrization="mup", **optim):
        node = compose_raw(f"model={name}")["model"]
        default = {"n_experts": 16} if "n_experts" in node else {}
        ffn = build({**node, **SMALL.get(name, default)}, "model")

        def subject(d_model):
            model = TransformerConfig(
                d_model=d_model,
                d_head=16,
                vocab_size=16,
                seq_len=16,
                tie_head=False,
                ffns=(ffn, ffn),
                base=None if parametrization == "sp" else Base(d_model=BASE, d_head=16),
            )
            lr = LR * (BASE / d_model) ** 0.5 if parametrization == "sp" else LR
            return Subject(model=model, lr=lr, optim=replace(OPTIM, **optim))

        return subject

    return of


def not_flat(coordinates):
    return [c for c in coordinates if not c.is_flat]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_no_size_depends_on_the_width_under_mup(subjects, name):
    assert not not_flat(check_coordinates(subjects(name)))
