"""Edits of single experts: in a model, back to the bit, and in a file."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from experiments.inspection.editing.applying import apply, find_rows, list_edits, make_patch
from experiments.inspection.editing.patch import (
    LayerEdits,
    Patch,
    read_indices,
    read_pairs,
    read_patch,
    write_patch,
)
from experiments.inspection.interface import inspected_layers, the_layer
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.stem import StemConfig
from tests.inspection.test_contributions import FINE, KEYED, STEM, model_of

RECORD = SimpleNamespace(run_id="0123456789ab")
LAYERS = {
    "peer": PEERConfig(**KEYED, glu=True),
    "bfloat16": PEERConfig(**KEYED, table_dtype="bfloat16"),
    "pkm": PKMConfig(**KEYED),
    "moe_fine": FINE,
    "dense": DenseConfig(glu=True),
    "stem": STEM,
}


@pytest.fixture
def ids():
    return torch.randint(0, 50, (1, 20))


@pytest.fixture
def model():
    return model_of(DenseConfig(), LAYERS["peer"]).float()


def edits_for(layer):
    """One of each kind, of the first experts."""
    return list_edits(layer, layer, removed=(1,), swapped=((0, 3),), added=((2, 4),))


def patch_of(model, name, edits):
    return make_patch(RECORD.run_id, model, {name: edits})


@torch.no_grad()
@pytest.mark.parametrize("ffn", LAYERS.values(), ids=LAYERS)
def test_edits_are_of_the_rows_that_they_name_and_are_undone_to_the_bit(ffn, ids):
    model = model_of(DenseConfig(), ffn)
    if getattr(ffn, "table_dtype", "") == "bfloat16":
        model = model.float()
        for table in ("w_down", "w_up"):
            part = getattr(model.blocks[1].ffn, table)
            part.data = part.data.bfloat16()
    layer = the_layer(model, "blocks.1.ffn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = {name: table.clone() for name, table in layer.layer.expert_rows().items()}
    whole = model(ids)
    with apply(model, patch_of(model, layer.name, edits_for(layer))):
        edited = layer.layer.expert_rows()
        *_, last = rows
        for name, table in edited.items():
            assert torch.equal(table[0], rows[name][3])
            assert torch.equal(table[3], rows[name][0])
            assert torch.equal(table[2], rows[name][4])
            assert torch.equal(table[4:], rows[name][4:])
            assert torch.equal(table[1], torch.zeros_like(table[1]) if name == last
                               else rows[name][1])  # fmt: skip
        assert not torch.equal(model(ids), whole)
        others = {n: t for n, t in model.state_dict().items() if not n.startswith("blocks.1.ffn.")}
        assert all(torch.equal(tensor, before[name]) for name, tensor in others.items())
    assert torch.equal(model(ids), whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_two_experts_that_change_places_and_two_keys_are_the_model_as_it_was(ids):
    """A mixture names its experts by a row of the router each: there it can be seen."""
    model = model_of(FINE)
    layer = the_layer(model, None)
    whole = model(ids)
    with apply(model, patch_of(model, layer.name, LayerEdits(swapped=((0, 4),)))):
        assert not torch.equal(model(ids), whole)
        router = layer.module.router.weight
        router[[0, 4]] = router[[4, 0]].clone()
        torch.testing.assert_close(model(ids), whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_an_expert_of_another_model_is_put_in_to_the_bit(model):
    other = model_of(DenseConfig(), LAYERS["peer"]).float()
    layer, source = (the_layer(one, None) for one in (model, other))
    edits = list_edits(layer, source, added=((5, 60),))
    with apply(model, patch_of(model, layer.name, edits)):
        assert find_rows(layer, 5) == find_rows(source, 60)
    assert find_rows(layer, 5) != find_rows(source, 60)


@torch.no_grad()
def test_what_was_written_is_what_is_read(model, tmp_path):
    layer = the_layer(model, None)
    patch = patch_of(model, layer.name, edits_for(layer))
    path = tmp_path / "p.json"
    write_patch(path, patch)
    again = read_patch(path, tmp_path, RECORD)
    assert replace(again, label="") == patch
    assert again.label.startswith("@patch=p-")
    assert patch.describe() == [
        "blocks.1.ffn (PEER, 64 experts): removes 1, swaps 1 pair, adds 1"
    ]  # fmt: skip
    undo = apply(model, again)
    with pytest.raises(ValueError, match="was made for other weights"):
        apply(model, again)
    undo.close()
    apply(model, again)
    with pytest.raises(ValueError, match=r"p.json exists; name another file, or delete it"):
        write_patch(path, patch)


@torch.no_grad()
def test_a_patch_that_is_refused_leaves_the_model_as_it_was(model):
    dense, peer = inspected_layers(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = LayerEdits(removed=(3,))
    rows = find_rows(peer, 0)
    for name, second, message in (
        (peer.name, LayerEdits(added={0: {"w_up": rows["w_up"]}}),
         r"added at 0 of blocks.1.ffn has the rows w_up, and the layer has w_down, w_gate, w_up"),
        (peer.name, LayerEdits(added={0: {**rows, "w_up": (1.0,)}}),
         r"w_up of the expert that is added at 0 of blocks.1.ffn has 1 numbers, and must have 16"),
        (peer.name, LayerEdits(added={0: {**rows, "w_up": (1e300,) * 16}}),
         r"has a number too large for torch.float32"),
    ):  # fmt: skip
        patch = make_patch(RECORD.run_id, model, {dense.name: first, name: second})
        with pytest.raises(ValueError, match=message):
            apply(model, patch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    patch = patch_of(model, peer.name, first)
    (part,) = patch.layers
    for wrong, message in (
        (replace(part, kind="PKM"), r"is a PEER of 64 experts, and the patch is of a PKM of 64"),
        (replace(part, n_experts=100), r"is a PEER of 64 experts, and the patch is of a PEER of"),
        (replace(part, name="blocks.9.ffn"), r"blocks.9.ffn is no layer of this model that can"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(model, replace(patch, layers=(wrong,)))


@torch.no_grad()
def test_experts_that_layers_share_are_edited_once(ids):
    config = MemoryPlusConfig(**KEYED, share_values=True)
    model = model_of(config, config)
    first, second = inspected_layers(model)
    edits = LayerEdits(removed=(3,))
    patch = make_patch(RECORD.run_id, model, {first.name: edits, second.name: edits})
    with pytest.raises(ValueError, match=r"expert 3 of blocks.1.ffn is that of blocks.0.ffn too"):
        apply(model, patch)


def test_an_expert_is_in_one_edit_and_of_the_layer(model):
    layer = the_layer(model, None)
    for wish, message in (
        ({"removed": (64,)}, "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
        ({"removed": (2, 2)}, r"expert 2 of blocks.1.ffn is in two edits \(remove and remove\)"),
        ({"removed": (2,), "swapped": ((2, 3),)}, r"in two edits \(remove and swap\)"),
        ({"swapped": ((3, 3),)}, r"in two edits \(swap and swap\)"),
        ({"swapped": ((3, 4),), "added": ((4, 1),)}, r"in two edits \(swap and add\)"),
        ({"added": ((4, 1), (4, 2))}, "two experts are added at one index of blocks.1.ffn"),
        ({"added": ((4, 64),)}, "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
    ):
        with pytest.raises(ValueError, match=message):
            list_edits(layer, layer, **wish)
    both = LayerEdits(removed=(1,)) + LayerEdits(removed=(1,))
    with pytest.raises(ValueError, match=r"expert 1 of blocks.1.ffn is in two edits"):
        patch_of(model, layer.name, both)
    with pytest.raises(ValueError, match="expert 2 is added by both"):
        LayerEdits(added={2: {}}) + LayerEdits(added={2: {}})


def test_indices_and_pairs_as_they_are_typed():
    assert read_indices("[17,40-42]", "remove") == (17, 40, 41, 42)
    assert read_indices(" 5 ", "remove") == (5,)
    assert read_pairs("[17:4000, 5:6]", "swap") == ((17, 4000), (5, 6))
    for text in ("[-1]", "[a]", "[5-4]", "[1:2]", "[0-99999999]", "[1.5]", "[1e3]"):
        with pytest.raises(ValueError, match=r"is no index and no range of them; give remove=\["):
            read_indices(text, "remove")
    for text in ("[1]", "[1:2:3]", "[1:]", "[a:b]"):
        with pytest.raises(ValueError, match=r"is no pair of experts; give swap=\["):
            read_pairs(text, "swap")


def test_the_layer_that_is_meant():
    alone = BesideConfig(frozen=DenseConfig(), trained=PKMConfig(**KEYED))
    assert the_layer(model_of(DenseConfig(), alone), None).name == "blocks.1.ffn.layer"
    with pytest.raises(ValueError, match=r"2 layers have experts; give layer= one of blocks.0.ffn"):
        the_layer(model_of(FINE, STEM), None)
    with pytest.raises(ValueError, match="experts choose tokens"):
        the_layer(model_of(MoEConfig(n_experts=4)), None)
    assert the_layer(model_of(StemConfig(vocab_size=50)), None).n_experts == 50


def with_changes(**changes):
    layer = {"name": "blocks.1.ffn", "kind": "PEER", "n_experts": 64,
             "remove": [1], "swap": [], "add": []}  # fmt: skip
    file = {"format": 1, "run_id": RECORD.run_id, "weights": "0" * 64, "layers": [layer]}
    for key, value in changes.items():
        (file if key in file else layer)[key] = value
    return json.dumps(file)


ROW = '{"expert": 5, "rows": {"w_up": %s}}'
DAMAGED = {
    "cut short": (with_changes()[:-3], "Expecting"),
    "no object": ("[1]", "holds a list"),
    "not UTF-8": (b'{"\xff": 1}', "codec can't decode"),
    "deep": ("[" * 10**5, "nested deeper"),
    "another format": (with_changes(format=2), "it has format 2, and this version reads 1"),
    "a key more": (with_changes(run="x"), "a layer must have name, kind, n_experts"),
    "no layer": (with_changes(layers=[]), "it changes nothing"),
    "a layer twice": (with_changes(layers=json.loads(with_changes())["layers"] * 2),
                      "it names blocks.1.ffn 2 times"),
    "no digest": (with_changes(weights="../x"), "weights is no sha256"),
    "an index beyond": (with_changes(remove=[64]), "expert 64 is not of blocks.1.ffn"),
    "an index below": (with_changes(remove=[-1]), "expert -1 is not of blocks.1.ffn"),
    "an index that is none": (with_changes(remove=[True]), "true is not the index of an expert"),
    "an index of many digits": (with_changes().replace("[1]", f"[{'9' * 5000}]"),
                                "a number of 5000 digits"),
    "two edits": (with_changes(swap=[[1, 2]]), r"in two edits \(remove and swap\)"),
    "a pair of three": (with_changes(swap=[[1, 2, 3]]), "swap must be of pairs"),
    "experts without end": (with_changes(n_experts=10**15), "is no number of experts"),
    "added twice": (with_changes().replace('"add": []', f'"add": [{ROW % "[1]"}, {ROW % "[1]"}]'),
                    "expert 5 of blocks.1.ffn is added twice"),
    "NaN": (with_changes().replace('"add": []', f'"add": [{ROW % "[NaN]"}]'), "is not finite"),
    "infinite": (with_changes().replace('"add": []', f'"add": [{ROW % "[1e999]"}]'), "not finite"),
    "a text for a row": (with_changes().replace('"add": []', f'"add": [{ROW % 5}]'),
                         "is no list of numbers"),
    "a list in a row": (with_changes().replace('"add": []', f'"add": [{ROW % "[[1]]"}]'),
                        "is no list of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "p.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_patch(path, tmp_path, RECORD)
    text = str(error.value)
    assert text.startswith(f"{path} is no patch that can be used: ")
    assert text.endswith("; make the patch again (python -m experiments.inspect patch)")
    assert "\n" not in text
    assert len(text) < 500


def test_a_patch_is_of_one_run_and_is_there(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(with_changes(run_id="ffffffffffff"))
    with pytest.raises(ValueError, match=r"is a patch of the run f{12}, and .* is 0123456789ab"):
        read_patch(path, tmp_path, RECORD)
    with pytest.raises(ValueError, match=r"patch=.*q.json does not exist; name the file"):
        read_patch(tmp_path / "q.json", tmp_path, RECORD)
    with pytest.raises(ValueError, match="is no patch that can be used: Is a directory"):
        read_patch(tmp_path, tmp_path, RECORD)
    with pytest.raises(ValueError, match="it changes nothing"):
        Patch(run_id="x", weights="0" * 64, layers=())
