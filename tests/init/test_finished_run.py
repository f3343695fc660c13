"""Runs of ours, trained in a second each, as what another run starts from."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from experiments.config.reading import build
from experiments.data.folders import identity
from experiments.data.vocabulary import prepare_vocabulary
from experiments.finished.model import read_finished
from experiments.init.finished_run import FinishedRun, make_node
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import Transformer
from experiments.records.files import read_record, write_record
from tests.conftest import Nursery
from tests.init.conftest import finish
from tests.init.trunks import loaded
from tests.rounding import assert_rounding

BESIDE = ("model=peer", "n_experts=64", "model.query_norm=layer", "trunk.ffn_blocks=[1]")


@pytest.fixture(scope="module")
def peer(parent) -> Path:
    """Folder of a run with PEER in the first of two blocks."""
    return parent("peer")[0].run_dir


def started(child, *overrides: str) -> Path:
    """Folder of a finished run that starts from it."""
    point = child("peer", "budget=2e9", *overrides)
    finish(point)
    return point.run_dir


def source(run_dir: Path) -> FinishedRun:
    return FinishedRun(path=str(run_dir))


def cache_of(run_dir: Path) -> Path:
    return Path(read_record(run_dir / "record.json").config["paths"]["cache"])


def trained(run_dir: Path) -> Transformer:
    """Run's model as `evaluate` loads it."""
    return read_finished(run_dir, [f"paths.cache={cache_of(run_dir)}"])[2]


def logits(model: Transformer) -> torch.Tensor:
    ids = torch.randint(0, 270, (2, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(ids)


def test_the_model_is_the_one_that_was_trained(peer):
    shape = source(peer).shape(cache_of(peer))
    assert (shape.n_layers, shape.d_model, shape.d_head) == (2, 32, 16)
    assert shape.attention["n_kv_heads"] == 2
    assert (shape.vocab_size, shape.name, shape.norm["eps"]) == (270, "peer", None)
    kinds = [type(build(node, "ffn")) for node in shape.ffns]
    assert kinds == [PEERConfig, DenseConfig]
    ours = loaded(source(peer), cache_of(peer))
    assert torch.equal(logits(ours), logits(trained(peer)))


def test_the_digest_is_of_the_weights_and_not_of_their_place(peer, tmp_path):
    copy = shutil.copytree(peer, tmp_path / "copy")
    digest = source(peer).digest(tmp_path)
    assert source(copy).digest(tmp_path) == digest
    checkpoint = torch.load(copy / "last.ckpt", weights_only=False)
    checkpoint["state_dict"]["model.norm.weight"][0] += 1e-3
    torch.save(checkpoint, copy / "last.ckpt")
    assert source(copy).digest(tmp_path) != digest


def test_a_layer_beside_is_read_back(child):
    run_dir = started(child, *BESIDE)
    shape = source(run_dir).shape(cache_of(run_dir))
    first, second = (build(node, "ffn") for node in shape.ffns)
    assert isinstance(first, PEERConfig)
    assert isinstance(second, BesideConfig)
    assert isinstance(second.frozen, DenseConfig)
    ours = loaded(source(run_dir), cache_of(run_dir))
    assert torch.equal(logits(ours), logits(trained(run_dir)))
    again = json.loads(json.dumps(make_node(second)))
    assert build(again, "ffn") == second


@pytest.mark.levels
def test_adapters_become_a_part_of_the_weights(peer, child):
    adapters = ("init.how=keep", "init.train=lora")
    run_dir = started(child, "model=dense", "trunk.ffn_blocks=[1]", *adapters)
    adapted = trained(run_dir)
    assert any(name.endswith("lora_b") for name in adapted.state_dict())
    got, wanted = logits(loaded(source(run_dir), cache_of(run_dir))), logits(adapted)
    assert_rounding(got, wanted, n_blocks=2)  # one product for two
    assert not torch.equal(got, logits(loaded(source(peer), cache_of(peer))))


def test_the_tokenizer_is_the_runs_own_whichever_text_comes_next(peer, tmp_path):
    record = read_record(peer / "record.json")
    node = source(peer).tokenizer(cache_of(peer))
    config = build(node, "data.tokenizer", ("n_entries", "make"))
    assert config.n_entries() == 270
    assert not config.trained
    other = prepare_vocabulary(config, Nursery(n_documents=7), tmp_path)
    assert other.sha256 == record.tokenizer_sha256
    assert identity(config) == {"kind": "ParentTokenizer", "sha256": record.tokenizer_sha256}


def test_a_tokenizer_that_has_changed_is_refused(peer, tmp_path):
    node = dict(source(peer).tokenizer(cache_of(peer)))
    corpus = {**node["corpus"], "n_documents": 1}
    with pytest.raises(ValueError, match="restore its text"):
        prepare_vocabulary(build({**node, "corpus": corpus}, "t"), Nursery(), tmp_path)


def test_a_run_without_the_tokenizers_hash_is_known_by_what_makes_it(peer, tmp_path):
    copy = shutil.copytree(peer, tmp_path / "copy")
    record = read_record(copy / "record.json")
    write_record(copy, dataclasses.replace(record, tokenizer_sha256=None))
    node = source(copy).tokenizer(tmp_path)
    config = build(node, "data.tokenizer")
    other = {**record.config["data"]["corpus"], "n_documents": 30}
    assert identity(config) != identity(build({**node, "corpus": other}, "data.tokenizer"))
    assert prepare_vocabulary(config, Nursery(), tmp_path).sha256 == record.tokenizer_sha256


def test_the_tokenizer_of_a_childs_child_is_the_first_runs(peer, child):
    run_dir = started(child, *BESIDE)
    cache = cache_of(peer)
    assert source(run_dir).tokenizer(cache) == source(peer).tokenizer(cache)


def damage(change):
    """Changes the bytes of the checkpoint."""

    def write(folder: Path) -> None:
        path = folder / "last.ckpt"
        path.write_bytes(change(path.read_bytes()))

    return write


def change(**values: object):
    def write(folder: Path) -> None:
        record = read_record(folder / "record.json")
        write_record(folder, dataclasses.replace(record, **values))

    return write


def as_mup(folder: Path) -> None:
    config = read_record(folder / "record.json").config
    change(config={**config, "optim": {**config["optim"], "parametrization": "mup"}})(folder)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


REFUSED = [
    (lambda f: (f / "record.json").unlink(), "has no record.json; give the folder"),
    (change(status="failed"), "is failed, and not done"),
    (change(status="diverged"), "is diverged, and not done"),
    (lambda f: (f / "last.ckpt").unlink(), "has no last.ckpt"),
    (damage(lambda content: content[:-1000]), "last.ckpt is damaged"),
    (damage(flipped), "last.ckpt is damaged"),
    (change(n_steps=1), "the run ended at 1"),
    (change(config={}), "record.json: "),
    (as_mup, r"trained with optim.parametrization=mup: .* \(init=hf\)"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_is_refused_and_why(spoil, message, peer, tmp_path):
    copy = shutil.copytree(peer, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(ValueError, match=message) as error:
        source(copy).shape(tmp_path)
    assert "\n" not in str(error.value)
