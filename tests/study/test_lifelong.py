"""docs/lifelong.md's tables and numbers are those of the committed records."""

import math
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from analysis.forgetting.compare import compare_forgetting
from analysis.forgetting.equal import _at, _curves
from analysis.forgetting.ways import find_way, read_order
from analysis.ways import shown
from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "lifelong.md").read_text(encoding="utf-8")
LINE = " ".join(TEXT.split())
FULL = "peer 16,384"
WAYS = {
    "dense, full fine-tuning": "dense",
    "PEER, full fine-tuning": FULL,
    "PEER, replay 0.05": f"{FULL}, replay 0.05",
    "PEER, distillation": f"{FULL}, distillation 1",
    "PEER, LoRA": f"{FULL}, LoRA",
    "PEER, its tables alone": f"{FULL}, tables alone",
    "PEER, its tables, top 1024 rows": f"{FULL}, tables alone, top 1024 rows",
    "PEER, a layer beside, which is trained alone": f"{FULL}, layer alone, beside",
    "PEER, all domains jointly": f"{FULL}, joint",
    "PEER, each domain alone": f"{FULL}, one domain",
}


@pytest.fixture(scope="module")
def records():
    folder = REPOSITORY / "results" / "lifelong" / "streams"
    return [read_record(path) for path in find_records(folder)]


@pytest.fixture(scope="module")
def compared(records):
    return compare_forgetting(records, learning=0.92, baseline=FULL)


@pytest.fixture(scope="module")
def one_stream(records):
    """First order of seed 0, which has all rates."""
    found = [r for r in records if r.seed == 0 and read_order(r)[0] == "licences"]
    return [r for r in found if len(read_order(r)) == 6]


def rows_of(head):
    """Rows of the table that begins so, cell by cell."""
    lines = TEXT[TEXT.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_streams_is_that_of_the_records(compared):
    rows = rows_of("| way | rate | streams |")
    assert [name for name, *_ in rows] == list(WAYS)
    for name, rate, streams, *numbers in rows:
        (one,) = (w for w in compared.ways if (w.way, f"{w.lr:g}") == (WAYS[name], rate))
        assert int(streams) == one.n_runs >= 2
        assert numbers == [shown(x) for x in (one.learning, one.forgetting, one.base)]


def test_the_table_at_equal_learning_is_that_of_the_records(compared):
    rows = rows_of("| way, where it has learnt 0.92 bits/byte |")
    at = {one.way: one for one in compared.equal.ways}
    assert {WAYS[name] for name, *_ in rows} == {w for w in at if at[w].n_streams >= 2}
    for name, streams, *numbers in rows:
        one = at[WAYS[name]]
        assert int(streams) == one.n_streams
        less = [shown(x) for x in (one.forgetting_less, one.base_less)]
        expected = [shown(one.forgetting), shown(one.base), *less]
        assert numbers == (expected if one.way != FULL else [*expected[:2], "", ""])


def test_what_the_text_says_of_differences_is_what_the_intervals_say(compared):
    at = {one.way: one for one in compared.equal.ways if one.n_streams >= 2}
    others = ("tables alone", "layer alone, beside", "distillation 1")
    for one in (at["dense"], *(at[f"{FULL}, {way}"] for way in others)):
        assert not one.forgetting_less.upper < 0  # none of these forgets significantly less
    value, low, high = at[f"{FULL}, replay 0.05"].forgetting_less
    assert f"forgets {-value:.3f} bits/byte less ({-high:.3f} to {-low:.3f})" in LINE
    assert at["dense"].base_less.lower < 0 < at["dense"].base_less.upper
    lost = at[FULL].base.value
    assert at[f"{FULL}, replay 0.05"].base.value < 0.55 * lost
    assert at[f"{FULL}, layer alone, beside"].base.value < 0.55 * lost


def test_replay_by_order_of_the_domains(records, compared):
    """Streams of one order are one value: three values, Student's t of two degrees of freedom."""
    curves = _curves(records)
    several = {stream for own in curves.values() for stream, runs in own.items() if len(runs) > 1}
    assert {(seed, order[0]) for seed, order in several} == {(0, "licences")}
    plain, replay = (_at(curves[way], 0.92) for way in (FULL, f"{FULL}, replay 0.05"))
    assert len(plain) == len(replay) == 9
    for which, name in enumerate(("forgetting", "base")):
        by_order = defaultdict(list)
        for stream, values in replay.items():
            by_order[stream[1]].append(plain[stream][which] - values[which])
        less = sorted((np.mean(x) for x in by_order.values()), reverse=True)
        value, half = np.mean(less), stats.t.ppf(0.975, 2) * np.std(less, ddof=1) / math.sqrt(3)
        (one,) = (at for at in compared.equal.ways if at.way == f"{FULL}, replay 0.05")
        printed = getattr(one, f"{name}_less_by_order")
        assert tuple(printed) == pytest.approx((-value, -value - half, -value + half))
        if name == "forgetting":
            a, b, c = (f"{x:.3f}" for x in less)
            assert f"by order of the domains it is {a}, {b} and {c} less" in LINE
            assert f"the interval is {value - half:.3f} to {value + half:.3f}." in LINE
        else:
            said = f"{value:.2f} bits/byte ({value - half:.2f} to {value + half:.2f})"
            assert f"as one value too: {said}" in LINE


def test_lora_beside_the_tables_at_what_it_has_learnt(records):
    found = compare_forgetting(records, learning=0.51, baseline=f"{FULL}, tables alone")
    (lora,) = (one for one in found.equal.ways if one.way == f"{FULL}, LoRA")
    value, low, high = lora.forgetting_less
    assert f"has forgotten {value:.2f} bits/byte more ({low:.2f} to {high:.2f})" in LINE
    curves = _curves(records)
    tables, own = (_at(curves[f"{FULL}, {way}"], 0.51) for way in ("tables alone", "LoRA"))
    more = defaultdict(list)
    for stream in own.keys() & tables.keys():
        more[stream[1]].append(own[stream][0] - tables[stream][0])
    three, one = sorted(more.values(), key=len, reverse=True)
    assert (len(three), len(one)) == (3, 1)
    assert f"by order it has forgotten {np.mean(three):.2f} and {one[0]:.2f} more" in LINE
    value, low, high = lora.base_less
    assert f"lost {value:.2f} more on the base corpus ({low:.2f} to {high:.2f})" in LINE


def test_the_values_of_one_stream_are_those_of_the_records(one_stream):
    ways = compare_forgetting(one_stream).ways
    most = {
        way: max(one.learning.value for one in ways if one.way == way)
        for way in {one.way for one in ways}
    }
    assert f"jointly learn {most[f'{FULL}, joint']:.2f} bits/byte at most" in LINE
    assert f"one after the other {most[FULL]:.2f}" in LINE
    top = [most[f"{FULL}, tables alone, top {n} rows"] for n in (1024, 256, 64)]
    assert "{:.2f} bits/byte at most with 1024 rows a step, {:.2f} with 256, {:.2f} with".format(
        *top
    ) in LINE  # fmt: skip
    at = {one.way: one for one in compare_forgetting(one_stream, learning=0.51).equal.ways}
    rows, tables = (at[f"{FULL}, tables alone{w}"] for w in (", top 1024 rows", ""))
    both = [
        f"{rows.forgetting.value:+.2f} and {tables.forgetting.value:+.2f}",
        f"{rows.base.value:+.2f} and {tables.base.value:+.2f} on the base",
    ]
    assert f"(0.51 bits/byte: {both[0]}, and {both[1]})" in LINE
    (held,) = (one for one in ways if one.way == f"{FULL}, L2 0.01")
    numbers = [held.learning.value, held.forgetting.value, held.base.value]
    assert "learns {:.2f} bits/byte, forgets {:.2f}, and loses {:.2f} on the base".format(
        *numbers
    ) in LINE  # fmt: skip


def test_every_record_is_of_a_way_that_is_compared(records):
    assert {"dense", FULL, f"{FULL}, LoRA"} <= {find_way(r) for r in records}
    assert all(record.status == "done" for record in records)
    assert all(math.isfinite(record.val_loss) for record in records)


def test_every_way_has_the_three_orders_of_the_three_seeds(records):
    ways = set(WAYS.values()) - {f"{FULL}, joint", f"{FULL}, one domain"}
    rates = {"dense": 5e-4, FULL: 5e-4, f"{FULL}, replay 0.05": 5e-4}
    streams = {
        (find_way(r), r.seed, tuple(read_order(r)))
        for r in records
        if find_way(r) in ways
        and r.config["ladder"]["lr"] == rates.get(find_way(r), r.config["ladder"]["lr"])
    }
    assert len(streams) == 8 * 3 * 3
