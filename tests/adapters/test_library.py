"""A library of adapters: what it adds, what adding and removing changes, where it is kept."""

import json
import subprocess
import sys

import pytest
import torch

from experiments.adapters import LoRA, LowRank, by_text, lora_library
from experiments.adapters.storage import load_library, save_library
from tests.adapters.small import adapter, merged, model, tokens

pytest.importorskip("transformers")
EXACT = {"rtol": 0, "atol": 1e-12}  # float64; sums in another order


@pytest.fixture
def three():
    return [
        adapter("a", 4, seed=1),
        adapter("b", 2, ("down_proj",), seed=2),
        adapter("c", 3, ("v_proj", "gate_proj"), blocks=(1,), seed=3),
    ]


@pytest.fixture
def library(three):
    return lora_library(three)


@pytest.fixture
def base(library):
    """A model that the library is on."""
    base = model()
    library.attach(base)
    return base


@torch.no_grad()
def logits(of, ids):
    return of(ids).logits


def test_one_adapter_is_its_product_added_to_the_weights(base, library, three):
    ids = tokens()
    for lora in three:
        library.use(lora.name)
        torch.testing.assert_close(logits(base, ids), logits(merged([lora], [1]), ids), **EXACT)
        assert not torch.allclose(logits(base, ids), logits(model(), ids), atol=1e-3)


def test_a_mixture_is_the_weighted_sum_and_the_mean_is_of_all(base, library, three):
    ids = tokens()
    library.mix({"a": 0.7, "c": -0.3})
    expected = merged([three[0], three[2]], [0.7, -0.3])
    torch.testing.assert_close(logits(base, ids), logits(expected, ids), **EXACT)
    library.mix()
    expected = merged(three, [1 / 3] * 3)
    torch.testing.assert_close(logits(base, ids), logits(expected, ids), **EXACT)


def test_each_row_of_a_batch_has_its_own_adapter(base, library, three, tmp_path):
    ids, names = tokens(4), [None, "a", "c", "__base__"]
    library.use_rows(names)
    with torch.no_grad():
        together = logits(base, ids)
    by_name = {lora.name: lora for lora in three}
    for i, name in enumerate(names):
        own = merged([by_name[name]], [1]) if name in by_name else model()
        torch.testing.assert_close(
            together[i : i + 1], logits(own, ids[i : i + 1]), rtol=0, atol=1e-12
        )
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 2):
        library.use_rows(names, beams=beams)
        made = base.generate(ids, num_beams=beams, **how)
        for i, name in enumerate(names):
            library.use_rows([name], beams=beams)
            own = base.generate(ids[i : i + 1], num_beams=beams, **how)
            assert torch.equal(made[i : i + 1, : own.shape[1]], own)
    with pytest.raises(ValueError, match="a batch of 4 sequences with adapters for 2"):
        logits(base, ids)
    with pytest.raises(ValueError, match="no adapter 'zz'"):
        library.use_rows(["zz"])
    for wrong in ("a", []):
        with pytest.raises(ValueError, match="needs a list of names"):
            library.use_rows(wrong)
    with pytest.raises(ValueError, match="a choice by rows is of one batch"):
        save_library(library, tmp_path / "kept")
    library.use_rows(["a"])
    library.remove("a")
    assert torch.equal(logits(base, ids[:1]), logits(model(), ids[:1]))


def test_without_a_route_and_after_detach_the_model_is_the_base_to_the_bit(library):
    ids, base = tokens(), model()
    before = logits(base, ids)
    library.attach(base)
    assert torch.equal(logits(base, ids), before)
    library.use("a")
    assert not torch.equal(logits(base, ids), before)
    library.detach()
    assert torch.equal(logits(base, ids), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.modules())


def test_an_addition_and_a_removal_leave_all_other_adapters_as_they_were(base, library):
    ids = tokens()

    def of_each(names):
        found = {}
        for name in names:
            library.use(name)
            found[name] = logits(base, ids)
        return found

    before = of_each("abc")
    for i in range(6):  # more than there is room for, in maps that have no table yet too
        library.add(adapter(f"new{i}", 2, ("gate_proj", "q_proj"), seed=9 + i))
    after = of_each("abc")
    assert all(torch.equal(before[n], after[n]) for n in "abc")
    library.use("new3")
    expected = merged([adapter("new3", 2, ("gate_proj", "q_proj"), seed=12)], [1])
    torch.testing.assert_close(logits(base, ids), logits(expected, ids), **EXACT)
    place = library.places["b"]
    library.remove("b")
    after = of_each("ac")
    assert all(torch.equal(before[n], after[n]) for n in "ac")
    assert library.add(adapter("late", 1)) == "late"
    assert library.places["late"] == place, "an empty place is used again"


def test_the_next_token_uses_what_was_added_and_removed_meanwhile(base, library, three):
    ids = tokens()
    library.mix({"a": 1.0, "b": 1.0})
    library.remove("b")
    torch.testing.assert_close(logits(base, ids), logits(merged(three[:1], [1]), ids), **EXACT)


def test_an_adapter_comes_out_as_it_went_in(library, three):
    for lora in three:
        back = library.adapter(lora.name)
        assert back.maps.keys() == lora.maps.keys()
        for path, low_rank in lora.maps.items():
            product = low_rank.up.T @ low_rank.down
            assert torch.equal(back.maps[path].up.T @ back.maps[path].down, product)


def test_bfloat16_bases_get_float32_adapters(library, three):
    ids, base = tokens(), model().bfloat16()
    library = lora_library([_float32(lora) for lora in three])
    library.attach(base)
    library.use("a")
    got = logits(base, ids)
    assert got.dtype == torch.bfloat16
    exact = logits(merged([three[0]], [1]), ids)
    away = (got.double() - exact).norm() / exact.norm()
    assert away < 0.03  # bfloat16 has 8 bits
    assert (logits(model().bfloat16(), ids).double() - exact).norm() / exact.norm() > 3 * away


def _float32(lora):
    maps = {p: LowRank(down=m.down.float(), up=m.up.float()) for p, m in lora.maps.items()}
    return LoRA(name=lora.name, base=lora.base, maps=maps)


@pytest.mark.parametrize("kind", ["none", "fixed", "arrow", "keys"])
def test_a_saved_library_is_the_same_library(kind, base, library, tmp_path):
    ids = tokens()
    if kind == "fixed":
        library.mix({"a": 0.5, "c": 2.0})
    if kind == "arrow":
        library.arrow(top_k=2, temperature=0.5, memory=4)
    if kind == "keys":
        by_text(library, {n: tokens(seed=i) for i, n in enumerate("abc", 5)}, tokens(seed=4))
    before = logits(base, ids)
    save_library(library, tmp_path / "kept")
    library.detach()
    again = load_library(tmp_path / "kept")
    assert again.places == library.places
    again.attach(base)
    assert torch.equal(logits(base, ids), before)
    again.add(adapter("d", 4, seed=7))  # and it goes on growing
    again.use("d")
    expected = merged([adapter("d", 4, seed=7)], [1])
    torch.testing.assert_close(logits(base, ids), logits(expected, ids), **EXACT)


def test_a_save_that_is_cut_short_leaves_the_library_of_before(library, tmp_path, monkeypatch):
    folder = save_library(library, tmp_path / "kept")
    library.remove("a")

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("experiments.adapters.storage.write_text_atomically", full)
    with pytest.raises(OSError, match="no space"):
        save_library(library, folder)
    assert load_library(folder).names == ("a", "b", "c")
    monkeypatch.undo()
    save_library(library, folder)
    assert load_library(folder).names == ("b", "c")
    assert len(list(folder.iterdir())) == 2, "what is no longer named is gone"


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.adapters.storage import load_library, save_library
library = load_library(sys.argv[1])
plain = Path.replace
def replace(self, target):
    if target.name == "library.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, target)
Path.replace = replace
save_library(library, sys.argv[2])
"""


@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_killed_save_left_goes_with_the_next_one(library, tmp_path, earlier):
    folder = tmp_path / "kept"
    if earlier:
        save_library(library, folder)
        library.remove("a")
    words = [str(save_library(library, tmp_path / "from")), str(folder)]
    assert subprocess.run([sys.executable, "-c", KILLED, *words]).returncode == -9
    assert len(list(folder.iterdir())) == (4 if earlier else 2)
    save_library(library, folder)
    assert load_library(folder).names == (("b", "c") if earlier else ("a", "b", "c"))
    assert len(list(folder.iterdir())) == 2


def test_damage_and_folders_of_something_else_are_named(library, tmp_path):
    folder = save_library(library, tmp_path / "kept")
    tables = next(folder.glob("*.safetensors"))
    content = bytearray(tables.read_bytes())
    content[-1] ^= 1
    tables.write_bytes(content)
    with pytest.raises(ValueError, match=r"tables-\w+\.safetensors is damaged"):
        load_library(folder)
    tables.unlink()
    with pytest.raises(ValueError, match=r"tables-\w+\.safetensors can't be read"):
        load_library(folder)
    index = json.loads((folder / "library.json").read_text())
    (folder / "library.json").write_text(json.dumps(index | {"format": 9}))
    with pytest.raises(ValueError, match="has format 9, and this version reads 1"):
        load_library(folder)
    (folder / "library.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the index of a library"):
        load_library(folder)
    with pytest.raises(ValueError, match=r"has no library\.json; name the folder of a library"):
        load_library(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        save_library(library, tmp_path / "other")
    with pytest.raises(ValueError, match=r"x has no library\.json and is not empty; name another"):
        save_library(library, tmp_path / "other" / "x")
