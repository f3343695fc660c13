"""Folders of LoRAs and libraries as somebody would write them who means harm."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.adapters.library import lora_library
from experiments.adapters.lora_files import LoRA, LowRank, read_lora
from experiments.adapters.storage import INDEX, load_library, save_library
from experiments.init.reading import file_sha256
from tests.adapters.small import adapter, path_of, write_peft

BOMB = "(((((a+)+)+)+)+)+b"


def change_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "pattern",
    [
        BOMB, "(a|a)*$", "a*a*a*a*a*b", "(x", "[", "[z-a]", "a{1,99999}",
        "\\", "(?s:.)", "(?P<x>a)",
        "a" * 257, "\n", "*", "model\\.layers\\.[0-9]+", "",
    ],
)  # fmt: skip
def test_a_pattern_that_may_take_long_is_refused_by_name(pattern, tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2), alpha_pattern={pattern: 1})
    start = time.process_time()
    with pytest.raises(ValueError, match=r"adapter_config\.json: alpha_pattern .*"):
        read_lora(folder)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "pattern", ["q_proj", "^model.layers.0.self_attn.q_proj$", r"layers\.\d\.self_attn.q_proj",
                "k_proj|q_proj", "layers.[0-3].self_attn.q_proj"],
)  # fmt: skip
def test_patterns_of_names_match_as_peft_s(pattern, tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2), alpha_pattern={pattern: 4.0})
    plain = read_lora(write_peft(tmp_path / "plain", adapter("x", 2), alpha=8.0))
    path, other = path_of(0, "q_proj"), path_of(0, "down_proj")
    maps = read_lora(folder).maps
    torch.testing.assert_close(maps[path].up * 2, plain.maps[path].up)
    torch.testing.assert_close(maps[other].up, plain.maps[other].up)


@pytest.mark.parametrize(
    "values",
    [
        {"alpha_pattern": [1]}, {"alpha_pattern": "q"}, {"alpha_pattern": {"q_proj": "x"}},
        {"alpha_pattern": {"q_proj": float("nan")}}, {"lora_alpha": [1]}, {"lora_alpha": None},
        {"lora_alpha": float("inf")}, {"lora_alpha": 10**400}, {"lora_alpha": True},
        {"lora_alpha": 1e300}, {"peft_type": ["LORA"]}, {"peft_type": {}},
    ],
    ids=str,
)  # fmt: skip
def test_odd_values_are_one_line(values, tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2))
    change_config(folder, **values)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        read_lora(folder)


@pytest.mark.parametrize(
    "text", ['{"peft_type": ' + "[" * 100_000, "[]", "3", '{"a": ' + "[" * 60 + "]" * 60 + "}"]
)
def test_odd_json_is_one_line(text, tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2))
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="is no config of an adapter"):
        read_lora(folder)


def test_adapters_of_rank_0_and_of_integers_are_refused(tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({n: t.flatten()[:0].view(0, 0) for n, t in tensors.items()}, weights)
    with pytest.raises(ValueError, match="no A and B of one rank"):
        read_lora(folder)
    save_file({n: t.to(torch.int64) for n, t in tensors.items()}, weights)
    with pytest.raises(ValueError, match="of floats"):
        read_lora(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    lora = adapter("x", 2)
    path = path_of(0, "q_proj")
    wide = LowRank(down=lora.maps[path].down.double(), up=lora.maps[path].up.double())
    wide.up[1, 3] = value
    library = lora_library([adapter("a", 2)])
    with pytest.raises(ValueError, match=rf"adapter 'bad' has numbers at {path} that are not fin"):
        library.add(LoRA(name="bad", base=None, maps={**lora.maps, path: wide}))
    assert library.names == ("a",)


@pytest.fixture
def folder(tmp_path):
    return save_library(
        lora_library([adapter(n, 2, seed=i) for i, n in enumerate("ab")]), tmp_path / "L"
    )


def edit(folder, **values):
    """Index with other values; what is in the file of tables stays."""
    path = folder / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tensors(folder, **values):
    """Tables with other tensors, and the index of their hash: anybody can compute it."""
    index = json.loads((folder / INDEX).read_text())
    path = folder / index["tables"]
    tensors = {**load_file(path), **values}
    save_file(tensors, path)
    edit(folder, sha256=file_sha256(path))


def test_tables_of_another_place_are_refused(folder, tmp_path):
    index = json.loads((folder / INDEX).read_text())
    other = tmp_path / "other.safetensors"
    (folder / index["tables"]).rename(other)
    for name in ("../other.safetensors", str(other), "..", "/etc/passwd", "", None, 3, INDEX):
        edit(folder, tables=name)
        with pytest.raises(ValueError, match="as its tables, and they are a file tables-"):
            load_library(folder)
    edit(folder, tables=index["tables"])
    (folder / index["tables"]).symlink_to(other)  # and by a link
    with pytest.raises(ValueError, match="as its tables, and they are a file tables-"):
        load_library(folder)


def test_a_planted_link_is_not_written_through(folder, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / "tables.partial").symlink_to(precious)
    save_library(load_library(folder), folder)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0}, {"rank": 10**12}, {"rank": 3}, {"rank": "2"}, {"rank": None}, {"rank": True},
        {"n_places": 10**15}, {"n_places": -1}, {"n_places": 1.5}, {"adapters": []},
        {"adapters": {"a": 3}}, {"adapters": {"a": {"place": 99, "maps": []}}},
        {"adapters": {"a": {"place": 0, "maps": []}}},
        {"adapters": {"a": {"place": 1, "maps": ["no"]}}},
        {"adapters": {"a": {"place": 1, "maps": [["x"]]}}},
        {"adapters": {n: {"place": 1, "maps": []} for n in "ab"}},
        {"base": 3}, {"route": {"kind": "evil"}}, {"route": {"kind": "fixed"}},
        {"route": {"kind": "fixed", "gates": {"99": 1.0}}},
        {"route": {"kind": "fixed", "gates": {"-1": 1.0}}},
        {"route": {"kind": "fixed", "gates": {"1": float("nan")}}},
        {"route": {"kind": "fixed", "gates": {"1" * 9999: 1.0}}},
        {"route": {"kind": "arrow", "top_k": 10**30, "temperature": 1.0, "memory": "1"}},
        {"route": {"kind": "arrow", "top_k": 2, "temperature": float("nan"), "memory": "1"}},
        {"route": {"kind": "arrow", "top_k": 2, "temperature": 1.0, "memory": "nan"}},
        {"route": {"kind": "arrow", "top_k": 2, "temperature": 1.0, "memory": []}},
        {"route": {"kind": "keys", "top_k": 2, "temperature": 1.0, "memory": "1"}},
        {"route": {"kind": "keys", "top_k": 2, "temperature": 0, "memory": "1"}},
        {"route": {"kind": "arrow", "top_k": 2, "temperature": -1.0, "memory": "1"}},
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
def test_an_index_that_does_not_fit_is_refused(values, folder):
    edit(folder, **values)
    with pytest.raises(ValueError, match=r"library\.json"):
        load_library(folder)


def test_tables_that_are_not_finite_or_no_tables_are_refused(folder):
    name = f"{path_of(0, 'q_proj')}:down"
    rows = load_library(folder).tables[path_of(0, "q_proj")].w_down
    for bad, message in (
        (rows * float("nan"), "numbers that are not finite"),
        (rows[:-1], "is not of 4 places of rank 2"),
        (rows.flatten(), "is not of 4 places of rank 2"),
        (rows.to(torch.int64), "no float"),
    ):
        edit_tensors(folder, **{name: bad})
        with pytest.raises(ValueError, match=message):
            load_library(folder)


KEYS = {
    "route:keys": torch.zeros(2, 33),
    "route:component_keys": torch.zeros(2, 33),
    "route:places": torch.tensor([0, 1]),
}


def keyed(folder, temperature=1.0, **tensors):
    """Library with a route by keys."""
    route = {"kind": "keys", "top_k": 2, "temperature": temperature, "memory": "1"}
    edit(folder, route=route)
    edit_tensors(folder, **KEYS | {f"route:{name}": tensor for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": torch.zeros(32)}, {"precision": torch.zeros(32, 32)},
        {"mean": torch.zeros(3), "precision": torch.zeros(3, 3)},
        {"mean": torch.zeros(32), "precision": torch.zeros(32)},
        {"mean": torch.tensor(0.0), "precision": torch.zeros(32, 32)},
        {"keys": torch.zeros(2), "component_keys": torch.zeros(2)},
        {"places": torch.tensor(0)}, {"keys": torch.zeros(0, 33), "places": torch.zeros(0).long()},
    ],
    ids=lambda v: str({name: tuple(tensor.shape) for name, tensor in v.items()}),
)  # fmt: skip
def test_keys_and_a_background_that_do_not_fit_are_refused(wrong, folder):
    keyed(folder, **wrong)
    with pytest.raises(ValueError, match=r"library\.json: its route's keys.* don't fit"):
        load_library(folder)


def test_keys_at_a_temperature_of_zero_are_refused(folder):
    keyed(folder, temperature=0.5)
    assert load_library(folder).route.temperature == 0.5
    keyed(folder, temperature=0)
    with pytest.raises(ValueError, match=r"library\.json: its route has temperature=0"):
        load_library(folder)


def test_keys_of_places_beyond_the_tables_are_refused(folder):
    """A kernel reads the rows that a place names, and does not check them."""
    keyed(folder)
    load_library(folder)
    for places in ([0, 10**9], [-1, 0], [0, 3], [0]):
        edit_tensors(folder, **{"route:places": torch.tensor(places)})
        with pytest.raises(ValueError, match="keys"):
            load_library(folder)
