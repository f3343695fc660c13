"""What can't work of the commands that compare ways and models: as test_bad_newer."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.forgetting.compare import compare_forgetting
from experiments.records.files import write_record
from tests.analysis.rates.made import GRID, grid_of, tuned
from tests.analysis.test_adaptation import row as adapted
from tests.analysis.test_adapters import LATER, three, written
from tests.analysis.test_bad_arguments import FILES, asked, cases, refused
from tests.analysis.test_bad_newer import tables
from tests.analysis.test_forgetting import stream_run
from tests.analysis.test_growth import nine


def tables_of(path):
    """Lines of a text below each [NAME], by name; without those that begin with #."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            found[heading[1]] = ""
        elif line and not line.startswith("#"):
            found[[*found][-1]] += f"{line}\n"
    return found


def changed(content, text):
    """Content with the values of a JSON object, whose keys are paths in it."""
    content = json.loads(json.dumps(content))
    for path, value in json.loads(text).items():
        *above, last = (int(key) if key.isdecimal() else key for key in path.split("."))
        where = content
        for key in above:
            where = where[key]
        where[last] = value
    return content


def _grown(**more):
    rows = [{**row, "seed": i, "run_id": f"r{i}", **more} for i, row in enumerate(nine())]
    return pd.DataFrame(rows)


def made():
    """Tables by name."""
    every = tables()
    good, grown, rates = every["good"], _grown(), grid_of(0.003)
    big, flops, n_experts = grown["init.how"].notna(), "init.parent.flops", "init.parent.n_experts"
    ways = [adapted(2.3 - i / 10, 3.4 + i / 50) for i in range(3)]
    ways += [adapted(2.0 - i / 10, 3.4, "keep", "all") for i in range(2)]
    start = pd.DataFrame(ways).assign(seed=range(5))
    before, after = "before.validation.loss", "wikitext2.loss"
    grown_tables = {
        "text": {flops: "much"}, "how": {"init.how": 3}, "negative": {flops: -5e12},
        "zero": {n_experts: 0}, "infinite": {flops: np.inf}, "true": {flops: True},
        "unknown": {"init.how": "magic"}, "free": {flops: np.nan}, "nan": {"loss": np.nan},
        "same": {"loss": 3.0}, "failed": {"status": "failed"}, "ids": {"run_id": "a"},
        "apart": {flops: 3 * grown[flops]},
    }  # fmt: skip
    adapted_tables = {
        "text": {before: "low"}, "negative": {before: -2.6}, "huge": {before: 1e300},
        "zero": {after: 0}, "infinite": {after: np.inf}, "nan": {after: np.nan},
        "empty": {"init.how": ""}, "how": {"init.how": 1.5}, "train": {"init.train": "bits"},
        "trained": {"n_trained_params": "x"}, "frozen": {"n_trained_params": 0},
        "minus": {"n_trained_params": -7}, "starts": {before: [2.6, 2.7, 2.8, 2.9, 3.0]},
        "same": {"loss": 2.0}, "failed": {"status": "failed"},
    }  # fmt: skip
    few = rates.groupby(["n_params", "n_tokens"])["lr"].rank() <= 2
    return {
        **every,
        "falls": good.assign(loss=good["loss"] - 0.2 * np.log(good["budget"] / 1e12)),
        "grown": grown,
        "grown_none": grown[~big],
        "grown_alone": grown[big],
        "grown_small": grown[(grown["n_experts"] == 1024) | big],
        "grown_parentless": grown.drop(columns=flops),
        "grown_lossless": grown.drop(columns="loss"),
        "grown_budgetless": grown.drop(columns="budget"),
        **{f"grown_{name}": grown.assign(**values) for name, values in grown_tables.items()},
        "adapted": start,
        "adapted_beforeless": start.drop(columns=before),
        "adapted_howless": start.drop(columns="init.how"),
        "adapted_tokenless": start.drop(columns="n_tokens"),
        "adapted_lossless": start.drop(columns="loss"),
        **{f"adapted_{name}": start.assign(**values) for name, values in adapted_tables.items()},
        "rates": rates,
        "cell": tuned(0.01, 0.009 * GRID),
        "used": good.assign(lr=0.01),
        "batch_text": rates.assign(batch="big"),
        "batch_none": rates.assign(batch=np.nan),
        "batch_zero": rates.assign(batch=0),
        "rate_text": rates.assign(lr="fast"),
        "rate_negative": rates.assign(lr=-rates["lr"]),
        "rate_infinite": rates.assign(lr=np.inf),
        "rate_few": rates[few],
        "rate_failed": rates.assign(status="failed"),
    }


def _stream(seed=0, **how):
    matrix = [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9]]
    return replace(stream_run(seed, how.pop("matrix", matrix), **how), budget=1.6e7)


def _record(folder, record):
    (folder / record.run_id).mkdir(parents=True)
    write_record(folder / record.run_id, record)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, frame in made().items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    for seed in (0, 1):
        _record(folder / "streams", _stream(seed))
    _record(folder / "single", _stream(matrix=[[3.0], [2.0]], order=("sea",)))
    for name in ("twice", "some_later"):
        (folder / name).mkdir()
    first, second, _ = three()
    written(folder / "twice", [first, first])
    written(folder / "some_later", [{**first, "later": LATER}, second])
    return folder


TABLES = tables_of(Path(__file__).with_name("bad_ways.txt"))
FILED = ("comparisons", "streams")  # what is damaged is a file; else a command's words are wrong
WORDS = [row for name, text in TABLES.items() if name not in FILED for row in cases(text)]


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_bad_input_is_one_line_and_writes_nothing(here, capsys, monkeypatch, words, message):
    assert message in refused(here, capsys, monkeypatch, words, 2)


def changes(text):
    """(change, message) of each line "change -> message"."""
    pairs = [line.partition(" -> ")[::2] for line in text.strip().splitlines()]
    return [pytest.param(*pair, id=f"{i}") for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(("change", "message"), changes(TABLES["comparisons"]))
def test_a_damaged_comparison_is_named(tmp_path, capsys, monkeypatch, change, message):
    good = {**three()[0], "later": LATER}
    text = json.dumps(changed(good, change)) if change.startswith("{") else json.loads(change)
    (tmp_path / "seed0.json").write_text(text)
    line = refused(tmp_path, capsys, monkeypatch, asked(["adapters", str(tmp_path)]), 2)
    assert message in line
    assert str(tmp_path) in line


@pytest.mark.parametrize(("change", "message"), changes(TABLES["streams"]))
def test_a_stream_that_can_not_be_read_is_named(tmp_path, change, message):
    record = _stream()
    new = changed({"stages": record.stages, "config": record.config}, change)
    with pytest.raises(ValueError, match="run 000000000000: what it learnt can't be read") as error:
        compare_forgetting([replace(record, **new)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_each_command_has_thirty_cases():
    n = {name: text.count(" -> ") for name, text in TABLES.items()}
    n["adapters"] += n.pop("comparisons")
    n["forgetting"] += n.pop("streams")
    assert min(n.values()) >= 30
