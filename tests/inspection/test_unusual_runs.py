"""Runs that are not plain are looked into: retrofitted, grown, of a stream."""

import pytest

from experiments.inspect import inspect_run
from experiments.inspection.questions.patch import patch_run
from experiments.inspection.results import read_inspection
from experiments.points.planning import make_point
from experiments.records.finished import finished_record
from experiments.system.claims import claimed
from experiments.training.execute import execute
from tests.conftest import TINY
from tests.training.domains import DOMAINS, stream

SHAPE = ("ladder.d_per_layer", "ladder.d_head", "ladder.vocab_size")  # the weights say these
ROOMS = tuple(o for o in TINY if not o.startswith(SHAPE))
PEER = ("model=peer", "n_experts=64", "model.n_heads=2", "model.top_k=4", "model.d_key=8",
        "model.query_norm=layer", "trunk.ffn_blocks=[1]")  # fmt: skip


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("unusual")


@pytest.fixture(scope="module")
def trained(compose_raw, top):
    """trained(*overrides): the folder of a finished run, and its record."""
    made = {}

    def make(*overrides, corpus=None):
        if (key := (overrides, corpus is None)) not in made:
            paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
            raw = compose_raw(*overrides, *paths)
            if corpus is not None:
                raw["data"]["corpus"] = corpus
            point = make_point(raw)
            record = execute(point)
            assert record.status == "done", record.error
            made[key] = point.run_dir, record
        return made[key]

    return make


@pytest.fixture
def child(trained):
    """child("model=peer", ...): of a run that starts from a dense one, or from one of PEER."""

    def make(*overrides, parent=(), corpus=None, rooms=ROOMS):
        start = trained("size=2", "budget=2e9", *TINY, *parent)[0]
        from_it = ("init=run", f"init.path={start}", "budget=1.01e9")
        return trained(*from_it, *rooms, *overrides, corpus=corpus)

    return make


def looked_at(run_dir, record, *texts):
    cache = f"paths.cache={record.config['paths']['cache']}"
    cards = inspect_run(run_dir, texts, [cache])
    return [card for card in cards if card.routed]


def since(run_dir, record, before):
    """Inspection beside that of the run that it started from."""
    inspect_run(run_dir, (), [f"paths.cache={record.config['paths']['cache']}"], before=before)
    return read_inspection(run_dir / "inspection")


@pytest.mark.parametrize(
    "model", [("stem",), ("engram", "n_experts=80"), ("peer_narrow", "n_experts=64")], ids=str
)
def test_usage_of_layers_is_what_training_logged(model, trained):
    name, *more = model
    run_dir, record = trained(
        f"model={name}", *more, "size=2", "budget=2e9", "trunk.ffn_blocks=[1]", *TINY
    )
    (card,) = looked_at(run_dir, record)
    assert card.n_tokens == record.n_eval_tokens
    assert card.usage == record.usage
    assert card.unevenness == record.unevenness


def test_a_retrofitted_run(child, tmp_path):
    """The layer beside is one of two in its block. It can be edited too."""
    run_dir, record = child(*PEER, "init.how=beside")
    (card,) = looked_at(run_dir, record)
    assert (card.name, card.kind) == ("blocks.1.ffn.layer", "PEER")
    assert card.usage == record.usage
    cache = f"paths.cache={record.config['paths']['cache']}"
    patch = patch_run(run_dir, tmp_path / "p.json", (cache,), removed=(3,))
    assert patch.layers[0].name == card.name


def test_a_grown_run(child):
    """The new experts are of N, and the counts are the run's."""
    run_dir, record = child(
        "init.how=bias", "n_experts=256", "trunk.ffn_blocks=[1]",
        parent=PEER,
    )  # fmt: skip
    (card,) = looked_at(run_dir, record)
    assert card.n_experts == 256
    assert card.usage == record.usage
    parent = next(run_dir.parent.parent.glob(f"*/{record.init['parent']['run_id']}"))
    found = since(run_dir, record, parent)
    about = found.about[card.name]["before"]
    assert about["n_experts"] == 64
    experts = found.tables["experts"].query("layer == @card.name")
    new = experts[experts["expert"] >= 64]["mass"].sum() / experts["mass"].sum()
    assert about["share_new"] == pytest.approx(new, rel=1e-6)
    assert 0 < about["moved_old"] <= about["moved"] <= 1
    before = found.tables["before"].query("layer == @card.name")
    assert before["expert"].max() < 64
    cells = found.tables["before_map"].query("layer == @card.name")
    assert cells["row"].max() < 8  # of 32
    assert cells["mass"].sum() == pytest.approx(before["mass"].sum())
    old = inspect_run(parent, (), [f"paths.cache={record.config['paths']['cache']}"])
    usage = next(one.usage for one in old if one.name == card.name)
    assert (before["mass"] > 0).sum() / 64 == pytest.approx(usage)  # over the same text
    with pytest.raises(ValueError, match=r"started from no run: experts of the same number"):
        since(parent, finished_record(parent), run_dir)


def test_a_run_of_a_stream(child):
    """Its texts are the base and each domain."""
    rooms = tuple(o for o in ROOMS if not o.startswith(("data.corpus", "~data.corpus")))
    run_dir, record = child(
        "data=stream", "init.how=keep", "init.train=all", "ladder.lr_d_model=32", "ladder.lr=1e-2",
        parent=PEER, corpus=stream(("sea", "farm")), rooms=rooms,
    )  # fmt: skip
    (card,) = looked_at(run_dir, record)
    assert card.n_experts == 64
    head = (run_dir / "inspection" / "experts.csv").read_text().splitlines()[0]
    assert all(f"mass.{name}" in head for name in ("base", *DOMAINS))
    parent = next(run_dir.parent.parent.glob(f"*/{record.init['parent']['run_id']}"))
    about = since(run_dir, record, parent).about[card.name]["before"]
    assert (about["n_experts"], about["share_new"]) == (64, 0)
    assert 0 < about["moved"] == about["moved_old"] < 1


def test_a_run_that_still_trains_is_refused_with_that_word(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with claimed(run_dir), pytest.raises(ValueError, match=r"run is still training: record.json"):
        inspect_run(run_dir)
    (run_dir / "last.ckpt").touch()
    with pytest.raises(ValueError, match="it was stopped before its end, and the command that"):
        finished_record(run_dir)
