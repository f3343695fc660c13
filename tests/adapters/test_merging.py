"""Adapters merged into one: the sum of their products, in a library and as peft's own folder."""

import pytest
import torch

from experiments import library as command_of_library
from experiments.adapters import (
    load_library,
    lora_library,
    lower_rank,
    merge_in,
    merge_loras,
    read_lora,
    save_library,
    save_lora,
)
from tests.adapters.small import adapter, merged, model, path_of, tokens

pytest.importorskip("transformers")

A = adapter("a", 2, seed=1)
B = adapter("b", 3, maps=("q_proj", "v_proj"), blocks=(0, 1), seed=2)
GATES = (0.7, -0.3)


def said(net, ids=None):
    with torch.no_grad():
        return net(input_ids=tokens() if ids is None else ids).logits


def test_the_merge_is_the_sum_of_products_and_one_adapter_in_use():
    one = merge_loras([A, B], GATES, "both")
    assert one.rank == 5
    assert len(one.maps) == len({*A.maps, *B.maps})
    library, net = lora_library([one]), model()
    library.attach(net)
    library.use("both")
    expected = said(merged([A, B], GATES))
    assert (said(net) - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_a_lower_rank_is_the_nearest_and_says_what_it_keeps():
    one = merge_loras([A, B], GATES, "both")
    same, share = lower_rank(one, 5)
    assert share == pytest.approx(1, abs=1e-12)
    low, kept = lower_rank(one, 2)
    assert (low.rank, low.base, low.maps.keys()) == (2, one.base, one.maps.keys())
    norms = [0.0, 0.0]
    for path, full in one.maps.items():
        product = full.up.T @ full.down
        torch.testing.assert_close(same.maps[path].up.T @ same.maps[path].down, product)
        left, sizes, right = torch.linalg.svd(product)
        best = left[:, :2] * sizes[:2] @ right[:2]
        torch.testing.assert_close(low.maps[path].up.T @ low.maps[path].down, best)
        norms[0] += float(sizes[:2].square().sum())
        norms[1] += float(sizes.square().sum())
    assert kept == pytest.approx(norms[0] / norms[1])
    assert 0.2 < kept < 1


@pytest.mark.long
def test_peft_reads_the_merge_as_its_own_cat(tmp_path):
    peft = pytest.importorskip("peft")
    one = merge_loras([A, B], GATES, "both")
    save_lora(one, tmp_path / "both")
    read = read_lora(tmp_path / "both")
    assert all(torch.equal(read.maps[path].up, low.up) for path, low in one.maps.items())
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        net = peft.PeftModel.from_pretrained(
            model(), tmp_path / "both", autocast_adapter_dtype=False
        ).eval()
    expected = said(merged([A, B], GATES))
    found = said(net.double())
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()  # peft's are float32
    with pytest.raises(ValueError, match="both exists; name a new folder"):
        save_lora(one, tmp_path / "both")


def test_the_command_writes_it_back_into_the_library_and_out_of_it(tmp_path, command):
    kept = save_library(lora_library([A, B], rank=4), tmp_path / "kept")
    code, out, err = command(command_of_library, "merge", kept, "ab", "a=0.7", "b=-0.3")
    assert code == 2
    assert "exact merge has rank 5, and the library holds up to 4; give rank=4" in err
    before = load_library(kept)
    code, out, _ = command(
        command_of_library, "merge", kept, "ab", "a=0.7", "b=-0.3", "--rank", "4"
    )
    assert code == 0
    assert "% of the squared norm of the exact merge" in out
    after = load_library(kept)
    assert after.names == ("a", "b", "ab")
    for name in ("a", "b"):  # the others stay, to the bit
        for path, low_rank in before.adapter(name).maps.items():
            assert torch.equal(after.adapter(name).maps[path].up, low_rank.up)
            assert torch.equal(after.adapter(name).maps[path].down, low_rank.down)
    path = path_of(0, "v_proj")  # of one adapter alone, so of rank 3: exact
    expected = -0.3 * B.maps[path].up.T @ B.maps[path].down
    found = after.adapter("ab").maps[path]
    torch.testing.assert_close(found.up.T @ found.down, expected)
    code, out, _ = command(command_of_library, "export", kept, "ab", tmp_path / "peft")
    assert (code, out) == (0, f"{tmp_path / 'peft'}\n")
    assert read_lora(tmp_path / "peft").maps.keys() == after.adapter("ab").maps.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ab", "a=0.5"), "1 adapters are named; a merge is of two or more"),
        (("ab", "a=0.5", "c=1"), "no adapter 'c' is in the library, which has a, b"),
        (("ab", "a=0.5", "b"), "b: write NAME=GATE, as recipes=0.5"),
        (("ab", "a=1", "b=x"), "b=x: write NAME=GATE"),
        (("ab", "a=1", "a=2"), "an adapter is named twice"),
        (("ab", "a=1", "b=nan"), "the gate nan must be a finite number"),
        (("a", "a=1", "b=1"), "an adapter 'a' is in the library"),
        (("ab", "a=1", "b=1", "--rank", "0"), "must be at least 1"),
    ],
)
def test_what_is_refused_leaves_the_library(tmp_path, command, words, message):
    kept = save_library(lora_library([A, B], rank=5), tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    code, _, err = command(command_of_library, "merge", kept, *words)
    assert code == 2
    assert message in err
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_adapters_of_other_weights_or_models_are_refused():
    import dataclasses

    others = [dataclasses.replace(one, base=base) for one, base in ((A, "x" * 64), (B, "y" * 64))]
    with pytest.raises(ValueError, match="a, b were trained on different weights"):
        merge_loras(others, GATES, "both")
    path = path_of(0, "q_proj")
    odd = dataclasses.replace(B, maps={path: A.maps[path_of(0, "down_proj")]})
    with pytest.raises(ValueError, match=r"a, b are for different models: .*q_proj"):
        merge_loras([A, odd], GATES, "both")
    assert merge_in(lora_library([A, B], rank=5), {"a": 1.0, "b": 1.0}, "ab") == 1.0
