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
from experiments.points.planning import make_point
from experiments.records.files import read_record, write_record
from experiments.training.execute import execute
from tests.conftest import TINY, Nursery
from tests.init.trunks import loaded
from tests.rounding import assert_rounding

PEER = ("model=peer", "n_experts=64", "model.query_norm=layer")
START = tuple(o for o in TINY if not o.startswith(("ladder.d_", "ladder.vocab_size")))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return f"paths.results={folder / 'results'}", f"paths.cache={folder / 'cache'}"


@pytest.fixture(scope="module")
def train(compose_raw, places):
    """Trains a point of these overrides; returns its folder."""

    def make(*overrides: str) -> Path:
        point = make_point(compose_raw(*overrides, *places))
        record = execute(point)
        assert record.status == "done", record.error
        return point.run_dir

    return make


@pytest.fixture(scope="module")
def parent(train) -> Path:
    """A PEER in the first of two blocks, with a tied head."""
    return train(*PEER, "size=2", "budget=2e9", "trunk.ffn_blocks=[0]", *TINY)


@pytest.fixture(scope="module")
def child(train, parent):
    """Trains a point that starts from the run."""

    def make(*overrides: str) -> Path:
        return train("init=run", f"init.path={parent}", "budget=2e9", *overrides, *START)

    return make


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


def test_the_model_is_the_one_that_was_trained(parent):
    shape = source(parent).shape(cache_of(parent))
    assert (shape.n_layers, shape.d_model, shape.d_head) == (2, 32, 16)
    assert shape.attention["n_kv_heads"] == 2
    assert (shape.vocab_size, shape.name, shape.norm["eps"]) == (270, "peer", None)
    kinds = [type(build(node, "ffn")) for node in shape.ffns]
    assert kinds == [PEERConfig, DenseConfig]
    ours = loaded(source(parent), cache_of(parent))
    assert torch.equal(logits(ours), logits(trained(parent)))


def test_the_digest_is_of_the_weights_and_not_of_their_place(parent, tmp_path):
    copy = shutil.copytree(parent, tmp_path / "copy")
    digest = source(parent).digest(tmp_path)
    assert source(copy).digest(tmp_path) == digest
    checkpoint = torch.load(copy / "last.ckpt", weights_only=False)
    checkpoint["state_dict"]["model.norm.weight"][0] += 1e-3
    torch.save(checkpoint, copy / "last.ckpt")
    assert source(copy).digest(tmp_path) != digest


def test_a_layer_beside_is_read_back(parent, child):
    run_dir = child(*PEER, "trunk.ffn_blocks=[1]", "init.how=beside")
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
def test_adapters_become_a_part_of_the_weights(parent, child):
    run_dir = child("model=dense", "trunk.ffn_blocks=[1]", "init.how=keep", "init.train=lora")
    adapted = trained(run_dir)
    assert any(name.endswith("lora_b") for name in adapted.state_dict())
    got, wanted = logits(loaded(source(run_dir), cache_of(run_dir))), logits(adapted)
    assert_rounding(got, wanted, n_blocks=2)  # one product for two
    assert not torch.equal(got, logits(loaded(source(parent), cache_of(parent))))


def test_the_tokenizer_is_the_runs_own_whichever_text_comes_next(parent, tmp_path):
    record = read_record(parent / "record.json")
    node = source(parent).tokenizer(cache_of(parent))
    config = build(node, "data.tokenizer", ("n_entries", "make"))
    assert config.n_entries() == 270
    assert not config.trained
    other = prepare_vocabulary(config, Nursery(n_documents=7), tmp_path)
    assert other.sha256 == record.tokenizer_sha256
    assert identity(config) == {"kind": "ParentTokenizer", "sha256": record.tokenizer_sha256}


def test_a_tokenizer_that_has_changed_is_refused(parent, tmp_path):
    node = dict(source(parent).tokenizer(cache_of(parent)))
    corpus = {**node["corpus"], "n_documents": 1}
    with pytest.raises(ValueError, match="restore its text"):
        prepare_vocabulary(build({**node, "corpus": corpus}, "t"), Nursery(), tmp_path)


def test_a_run_without_the_tokenizers_hash_is_known_by_what_makes_it(parent, tmp_path):
    copy = shutil.copytree(parent, tmp_path / "copy")
    record = read_record(copy / "record.json")
    write_record(copy, dataclasses.replace(record, tokenizer_sha256=None))
    config = build(source(copy).tokenizer(tmp_path), "data.tokenizer")
    other = build(
        {
            **source(copy).tokenizer(tmp_path),
            "corpus": {**record.config["data"]["corpus"], "n_documents": 30},
        },
        "data.tokenizer",
    )
    assert identity(config) != identity(other)
    assert prepare_vocabulary(config, Nursery(), tmp_path).sha256 == record.tokenizer_sha256


def test_the_tokenizer_of_a_childs_child_is_the_first_runs(parent, child):
    run_dir = child(*PEER, "trunk.ffn_blocks=[1]", "init.how=beside")
    cache = cache_of(parent)
    assert source(run_dir).tokenizer(cache) == source(parent).tokenizer(cache)


def cut(folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])


def flip(folder: Path) -> None:
    path = folder / "last.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change(**values: object):
    def write(folder: Path) -> None:
        record = read_record(folder / "record.json")
        write_record(folder, dataclasses.replace(record, **values))

    return write


def trained_with(parametrization: str):
    def write(folder: Path) -> None:
        record = read_record(folder / "record.json")
        optim = {**record.config["optim"], "parametrization": parametrization}
        write_record(folder, dataclasses.replace(record, config={**record.config, "optim": optim}))

    return write


REFUSED = {
    "no record": (lambda f: (f / "record.json").unlink(), "has no record.json; give the folder"),
    "failed": (change(status="failed"), "is failed, and not done"),
    "diverged": (change(status="diverged"), "is diverged, and not done"),
    "no checkpoint": (lambda f: (f / "last.ckpt").unlink(), "has no last.ckpt"),
    "cut short": (cut, "last.ckpt is damaged"),
    "a flipped bit": (flip, "last.ckpt is damaged"),
    "another step": (change(n_steps=1), "the run ended at 1"),
    "no config": (change(config={}), "record.json: "),
    "multipliers": (trained_with("mup"), r"trained with optim.parametrization=mup: .* \(init=hf\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case, parent, tmp_path):
    spoil, message = REFUSED[case]
    copy = shutil.copytree(parent, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(ValueError, match=message) as error:
        source(copy).shape(tmp_path)
    assert "\n" not in str(error.value)
