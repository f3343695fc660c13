"""A plan says where a processor emulates the numbers of its runs."""

import pytest

from experiments.points import emulated
from experiments.points.emulated import emulation_lines
from experiments.points.planning import make_point
from tests.conftest import TINY

BF16 = ("trainer.precision=bf16-mixed", "trainer.accelerator=cpu")


@pytest.fixture
def lines(compose_raw, monkeypatch):
    """lines("size=1", native=False): of the run with these overrides."""

    def of_run(*overrides, native=False, buildable=True):
        monkeypatch.setattr(emulated, "computes_bf16", lambda: native)
        monkeypatch.setattr(emulated, "why_not_fused", lambda: None if buildable else "no compiler")
        raw = compose_raw("size=1", "budget=1e9", *TINY, *overrides)
        return emulation_lines([make_point(raw)])

    return of_run


def test_an_eager_run_in_bfloat16_is_named_with_the_remedy(lines):
    _, line = lines(*BF16, "trainer.trunk=eager")
    assert line.startswith("warning: 1 of 1 runs compute bfloat16 outside of the fused trunk")
    assert "set trainer.precision=32-true, or trainer.trunk=auto" in line


def test_where_nothing_can_be_fused_float32_is_the_remedy(lines):
    _, line = lines(*BF16, "trainer.trunk=eager", buildable=False)
    assert line.endswith("set trainer.precision=32-true")
    assert lines(*BF16, buildable=False)
    assert lines(*BF16, "norm=layer")  # which has no fused form


@pytest.mark.parametrize(
    ("overrides", "native"),
    [((*BF16, "trainer.trunk=eager"), True), (("trainer.trunk=eager",), False)],
)
def test_other_runs_and_processors_have_no_line(lines, overrides, native):
    assert lines(*overrides, native=native) == []


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"architecture": "x86_64", "avx2": True, "amx_bf16": False, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_which_processors_compute_bfloat16(monkeypatch, flags, native):
    monkeypatch.setattr(emulated, "_capabilities", lambda: flags)
    assert emulated.computes_bf16() is native
