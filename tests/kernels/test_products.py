"""Products whose rate is the peak: right ones, by all that make them, and the best of all."""

import pytest
import torch

from experiments.kernels import products
from experiments.kernels.products import makers, measured_peak_flops, product

# tails of rows, of a panel, of depth; whole tiles alone, one row beyond a tile, and less than two
SHAPES = [(1, 16, 16), (7, 48, 80), (100, 272, 208), (64, 96, 64), (17, 64, 16), (63, 528, 96)]
needs_ours = pytest.mark.skipif(products._function() is None, reason="no C++ compiler")


@needs_ours
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_product(shape, bf16):
    m, k, n = shape
    a, b = torch.randn(m, k), torch.randn(k, n)
    exact = [(x.bfloat16() if bf16 else x).double() for x in (a, b)]
    wanted, found = exact[0] @ exact[1], product(a, b, bf16=bf16)
    # roundings of k sums, of either sign: Higham and Mary 2019, sqrt(k) u |A| |B|
    most = k**0.5 * 2**-24 * (exact[0].abs() @ exact[1].abs())
    assert ((found.double() - wanted).abs() <= most).all()
    torch.set_num_threads(1)
    assert torch.equal(product(a, b, bf16=bf16), found)


@needs_ours
def test_all_that_make_products_make_the_same():
    torch.manual_seed(0)
    found = makers(40, 32, 64, device="cpu", dtype=torch.float32)
    assert list(found) == ["torch", "oneDNN", "ours"]
    theirs, mkldnn, ours = (call() for call in found.values())
    torch.testing.assert_close(mkldnn.to_dense(), theirs)
    torch.testing.assert_close(ours, theirs)
    assert list(makers(40, 32, 64, device="cpu", dtype=torch.bfloat16)) == ["torch", "ours"]
    assert list(makers(40, 8, 64, device="cpu", dtype=torch.bfloat16)) == ["torch"]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_the_peak_is_the_fastest_makers_and_a_slow_one_makes_no_large_product(monkeypatch, bf16):
    now, asked, made = [0.0], [], []

    def takes(name, size, seconds):
        def call():
            made.append((name, size))
            now[0] += seconds

        return call

    def slow_and_fast(m, k, n, *, device, dtype):
        asked.append(dtype)
        return {"torch": takes("torch", m, 0.5), "ours": takes("ours", m, 0.001)}

    monkeypatch.setattr(products, "makers", slow_and_fast)
    monkeypatch.setattr(products, "_SIZES", {"cpu": (4, 8)})
    monkeypatch.setattr(products.time, "perf_counter", lambda: now[0])
    found = measured_peak_flops("cpu", bf16=bf16)
    assert found == pytest.approx(2 * 8**3 / 0.001)
    assert set(made) == {("torch", 4), ("ours", 4), ("ours", 8)}
    assert set(asked) == {torch.bfloat16 if bf16 else torch.float32}


def test_without_a_compiler_the_peak_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "_function", lambda: None)
    assert list(makers(16, 16, 16, device="cpu", dtype=torch.bfloat16)) == ["torch"]
