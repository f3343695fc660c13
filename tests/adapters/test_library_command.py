"""`python -m experiments.library`, and runs of ours as adapters: made, chosen, scored, served."""

import json
import re

import pytest
import torch

from experiments import evaluate, generate, library
from experiments.adapters import load_library, read_lora
from experiments.finished.model import read_finished
from experiments.finished.texts import read_base
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import SMALL_PEER, TINY
from tests.rounding import assert_rounding
from tests.training.domains import DOMAINS

SHAPE = ("ladder.d_per_layer", "ladder.d_head", "ladder.vocab_size")  # the weights say these
ROOMS = tuple(o for o in TINY if not o.startswith(SHAPE))


@pytest.fixture(scope="module")
def made(compose_raw, tmp_path_factory):
    """Base's folder, and by domain those of runs with adapters; with their cache."""
    pytest.importorskip("safetensors")
    top = tmp_path_factory.mktemp("adapters")
    paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
    base = make_point(compose_raw(*SMALL_PEER, "size=2", "budget=2e9", *TINY, *paths))
    assert execute(base).status == "done"
    runs = {}
    for name in DOMAINS:
        point = make_point(
            compose_raw(
                "init=run", f"init.path={base.run_dir}", "init.how=keep", "init.train=lora",
                "init.lora_rank=4", "budget=3e9", "ladder.lr=0.05", *ROOMS, *paths,
                "data.corpus._target_=tests.training.domains.Words", f"+data.corpus.domain={name}",
            )
        )  # fmt: skip
        assert execute(point).status == "done"
        runs[name] = point.run_dir
    return base.run_dir, runs, f"paths.cache={top / 'cache'}"


@pytest.fixture
def folder(made, command, tmp_path):
    """A library of two of the adapters."""
    _, runs, _ = made
    adapters = [f"{name}={runs[name]}" for name in ("sea", "farm")]
    code, out, _ = command(library, "make", tmp_path / "kept", *adapters)
    assert code == 0
    assert re.search(r"^sea +1 +\d+$", out, re.M)
    assert "rank 4; chosen by hand: none" in out
    return tmp_path / "kept"


@pytest.mark.levels
def test_a_run_s_adapter_in_a_library_is_the_run(made, folder):
    base, runs, cache = made
    adapters = load_library(folder)
    model = read_base(runs["sea"], [cache])
    ids = torch.randint(3, 250, (2, 30))
    _, _, trained = read_finished(runs["farm"], [cache])
    _, _, untrained = read_finished(base, [cache])
    with torch.no_grad():
        assert torch.equal(model(ids), untrained(ids))
        adapters.attach(model)
        adapters.use("farm")
        assert_rounding(model(ids), trained(ids), n_blocks=2)
        assert not torch.allclose(model(ids), untrained(ids), atol=1e-2)


def test_add_remove_and_show(made, command, folder):
    _, runs, _ = made
    code, out, _ = command(library, "add", folder, f"town={runs['town']}")
    assert code == 0
    assert re.search(r"^town +3", out, re.M)
    assert command(library, "remove", folder, "sea")[0] == 0
    code, out, _ = command(library, "show", folder)
    assert code == 0
    assert "sea" not in out
    assert load_library(folder).names == ("farm", "town")


def test_evaluate_and_generate_take_a_library(made, command, folder):
    base, runs, cache = made
    assert command(library, "route", folder, "mix")[0] == 0
    before = read_record(base / "record.json").evaluations
    words = (base, "eval=[validation]", cache)
    assert command(evaluate, *words)[0] == 0
    code, _, err = command(evaluate, *words, f"library={folder}")
    assert code == 0, err
    found = read_record(base / "record.json").evaluations
    (marked,) = [name for name in found if "@library=kept-" in name]
    assert marked.startswith("validation@library=")
    assert found[marked]["loss"] != found["validation"]["loss"]
    assert set(before) <= set(found)
    assert "scoring" not in command(evaluate, *words, f"library={folder}")[1]
    command(library, "route", folder, "arrow", "--top-k", "1")
    command(evaluate, *words, f"library={folder}")
    found = read_record(base / "record.json").evaluations
    assert len([name for name in found if "@library=kept-" in name]) == 2, "another library"
    plain = command(generate, base, "the cat", cache, "max_tokens=8")[1]
    served = command(generate, base, "the cat", cache, "max_tokens=8", f"library={folder}")
    assert served[0] == 0
    assert served[1] != plain
    words = (runs["sea"], "the cat", cache, "max_tokens=8", f"library={folder}")
    by_run = command(generate, *words)
    assert by_run[1] == served[1], "a run with adapters stands for what it began with"


def test_keys_from_text_and_the_comparison(made, command, folder, tmp_path):
    _, runs, cache = made
    sets = ("eval=[validation]", cache)
    more = ("--windows", "3", "--background", "validation", "--steps", "3", "--held-out", "2")
    code, out, err = command(
        library, "route", folder, "text", runs["sea"], runs["farm"], *sets, "--windows", "3"
    )
    assert code == 0, err
    assert "chosen by product keys: 2 a token, evidence of 64 tokens" in out
    assert load_library(folder).route.key(2) is not None
    assert re.search(r"^sea +1 +\d+ +yes$", out, re.M)
    code, out, _ = command(library, "add", folder, f"town={runs['town']}")
    assert re.search(r"^town +3 +\d+ +no$", out, re.M)
    assert "an adapter without a key is not chosen" in out
    report = tmp_path / "report.json"
    code, _, err = command(
        library, "compare", report, runs["sea"], runs["farm"], "--later", runs["town"], "--single",
        runs["sea"], *sets, *more,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(report.read_text())
    assert found["adapters"] == ["sea", "farm"]
    ways = ("base", "own", "uniform", "arrow", "token", "64 tokens", "learned")
    assert set(ways) <= set(found["losses"])
    for name in ("sea", "farm"):
        assert found["losses"]["own"][name] < found["losses"]["base"][name]
    assert found["losses"]["single"]["sea"] == pytest.approx(found["losses"]["own"]["sea"])
    assert found["later"]["equal"] is True
    assert found["later"]["with"]["town"] < found["later"]["without"]["town"]
    code, _, err = command(library, "compare", report, runs["sea"], *sets, *more)
    assert (code, "is there already" in err) == (2, True)


def test_keys_of_adapters_that_have_other_names_than_domains(made, command, tmp_path):
    """Named by their folders, as `make` without NAME= does; and by hand."""
    _, runs, cache = made
    words = ("eval=[validation]", cache, "--windows", "3")
    for named, said in (("", ""), ("field=", "field=")):
        folder = tmp_path / f"library{named}"
        code, _, err = command(library, "make", folder, runs["sea"], f"{named}{runs['farm']}")
        assert code == 0, err
        code, out, err = command(
            library, "route", folder, "text", runs["sea"], f"{said}{runs['farm']}", *words
        )
        assert code == 0, err
        assert re.search(rf"^{named.strip('=') or runs['farm'].name} +2 +\d+ +yes$", out, re.M)


def test_a_library_of_other_weights_is_refused(made, command, folder, trained):
    _, runs, cache = made
    other = trained(*SMALL_PEER, "seed=1")
    code, _, err = command(generate, other, "a", cache, f"library={folder}")
    assert code == 2
    assert "holds adapters of other weights" in err
    assert read_lora(runs["sea"]).base != other.name
