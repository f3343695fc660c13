"""Page of a sweep: its numbers are the runs', it is escaped and small; no sweep depends on it."""

import json
import re
import threading

import pytest

from experiments import status
from experiments.records.files import find_records
from experiments.sweep import manifest
from experiments.sweep.folders import sweep_folders
from experiments.sweep.page import curves, keeping
from experiments.sweep.page.curves import Curve, Curves, thinned
from experiments.sweep.page.data import PageData
from experiments.sweep.page.keeping import kept_page
from experiments.sweep.page.page import SweepPage
from tests.sweep.made_page import EVIL, entry, history, point, sweep, two_models


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="_data">(.*?)</script>', page)
    return json.loads(text)


def test_a_curve_is_the_means_of_its_rows():
    whole = thinned(history(4), 100)
    assert whole.steps == (10, 20, 30, 40)
    assert whole.losses[0] == pytest.approx(2 + 4 / 1.2**0.5)
    assert (whole.n_tokens, whole.flops) == (512, pytest.approx(512e5))
    short = thinned(history(100), 10)
    assert short.steps[-1] == 1000
    assert 8 <= len(short.steps) <= 10
    losses = thinned(history(100), 10_000).losses
    n_last = sum(step > 1000 / 100**0.1 for step in range(10, 1001, 10))
    assert short.losses[-1] == pytest.approx(sum(losses[-n_last:]) / n_last, abs=1e-3)


def test_what_is_no_row_is_left_out():
    head, *rows = history(5).splitlines()
    torn = [head, rows[0], "30,x,1,2", rows[1], rows[0], "nan,1,1,1,1,1,1", rows[2], "60,1"]
    assert thinned("\n".join(torn), 100).steps == (10, 20, 30)
    assert thinned(history(5), 100, first_step=30).steps == (30, 40, 50)
    for text in ("", "a,b\n1,2\n", head, f"{head}\n1e400,1,1,1\n", f"{head}\n0,0,0,5\n"):
        assert thinned(text, 100) is None


def test_a_history_is_read_again_once_it_has_changed(tmp_path, monkeypatch):
    read, n_read = curves.read_regular, []
    monkeypatch.setattr(curves, "read_regular", lambda *a: n_read.append(1) or read(*a))
    own = Curves()
    assert own.read(tmp_path, 9) is None
    (tmp_path / "history.csv").write_text(history(3))
    assert own.read(tmp_path, 9).steps == own.read(tmp_path, 9).steps == (10, 20, 30)
    (tmp_path / "history.csv").write_text(history(4))
    assert own.read(tmp_path, 9).steps[-1] == 40
    assert len(n_read) == 2


def test_lines_join_the_lowest_run_of_each_size(tmp_path):
    rows = [(1, 30, 3.2), (2, 10, 3.5), (3, 30, 3.1), (4, 90, 3.4), (5, 90, None)]
    pairs = [(own := entry(str(i)), point(own, n_params=n, loss=y)) for i, n, y in rows]
    found = PageData(tmp_path).read(sweep(*pairs))
    assert found["lines"] == [{"model": 0, "budget": 0, "points": [1, 2, 3]}]


def test_a_number_of_experts_at_several_sizes_has_its_own_line(tmp_path):
    rows = [(16, 10), (64, 12), (16, 20), (64, 24)]
    pairs = [(own := entry(f"r{n}", n_experts=e), point(own, n_params=n)) for e, n in rows]
    lines = PageData(tmp_path).read(sweep(*pairs))["lines"]
    assert [line["points"] for line in lines] == [[0, 2], [1, 3]]
    (line,) = PageData(tmp_path).read(sweep(*pairs[:2]))["lines"]
    assert line["points"] == [0, 1]


def test_settings_of_a_layer_are_a_model_of_their_own_and_others_are_not(tmp_path):
    words = ("", " n_heads=4", " lr=0.01")
    pairs = [(own := entry(f"r{i}", words=w), point(own)) for i, w in enumerate(words)]
    found = PageData(tmp_path).read(sweep(*pairs))
    assert [model["name"] for model in found["models"]] == ["peer", "peer n_heads=4"]
    assert [p["model"] for p in found["points"]] == [0, 1, 0]
    first, second = found["models"]
    assert (first["colour"], first["marker"]) == ("#9c4998", "^")
    assert (second["colour"], second["marker"]) == ("#9c4998", "v")


def test_a_branch_begins_where_it_leaves_its_trunk(tmp_path):
    trunk = entry("trunk", config={"optim": {"schedule": "trunk"}})
    branch = entry("branch", trunk="trunk", first_step=400)
    for own in (trunk, branch):
        (tmp_path / own.run_id).mkdir()
        (tmp_path / own.run_id / "history.csv").write_text(history(50))
    state = sweep((trunk, point(trunk, loss=None)), (branch, point(branch)))
    page = SweepPage(tmp_path, "s").render(state)
    first, second = data_of(page)["points"]
    assert (first["budget"], second["budget"]) == (None, 0)
    assert (first["curve"]["steps"][0], second["curve"]["steps"][0]) == (10, 400)
    assert "from step 400 of its trunk" in page


@pytest.mark.parametrize("config", ["null", "[]", '{"budget": "x", "model": 3, "optim": 1}', "{"])
def test_a_strangers_config_costs_its_place_only(tmp_path, config):
    own = manifest.Entry(
        run_id="a", label=EVIL, planned_flops=0.0, n_steps=1, code=None, config=config
    )
    odd = {"loss": float("nan"), "n_params": -1}
    (shown,) = data_of(SweepPage(tmp_path, EVIL).render(sweep((own, point(own, **odd)))))["points"]
    assert (shown["budget"], shown["n_params"], shown["loss"], shown["curve"]) == (None,) * 4


def test_texts_stay_texts(tmp_path):
    page = SweepPage(tmp_path, EVIL).render(two_models(tmp_path))
    assert "<img" not in page
    assert "\x1b" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert page.count("OSError: &lt;/script&gt;&lt;img") == 2
    assert "a note &lt;/script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none'; ")


def test_it_says_what_status_says(tmp_path):
    page = SweepPage(tmp_path, "s").render(two_models(tmp_path), every=30.0)
    words = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))
    assert "8 of 12 points done, 1 running, 1 waiting, 2 failed; about 3.0 min left" in words
    assert "of 1.2e10 FLOPs done 79 %" in words
    assert "250 of 500" in words
    assert words.index("running peer") < words.index("failed dense") < words.index("done dense")
    assert "log: results/s/log.txt" in words
    found = data_of(page)
    (going,) = [p for p in found["points"] if p["state"] == "running"]
    assert going["now"] == pytest.approx(2 + 4 / 5**0.5, rel=0.02)
    assert found["every"] == 30
    assert '<noscript><meta http-equiv="refresh" content="30">' in page


def test_a_page_that_nobody_writes_again_is_not_loaded_again(tmp_path):
    page = SweepPage(tmp_path, "s").render(two_models(tmp_path))
    assert 'http-equiv="refresh"' not in page
    assert data_of(page)["every"] is None


def test_a_thousand_points_are_two_megabytes_at_most(tmp_path, monkeypatch):
    def read(self, run_dir, n_most, first_step):
        steps = tuple(range(100_000, 100_000 + n_most))
        return Curve(steps=steps, losses=(12.3456,) * n_most, flops=1e9 / 3, n_tokens=512)

    monkeypatch.setattr(Curves, "read", read)
    own = [entry(f"{i:012x}", n_experts=1024, words=" lr=0.0123 d_model=64") for i in range(1000)]
    states = ("done", "running", "failed", "interrupted")
    points = [point(e, states[i % 4], detail="x" * 80) for i, e in enumerate(own)]
    page = SweepPage(tmp_path, "s").render(sweep(*zip(own, points)))
    assert 500_000 < len(page.encode()) <= 2_000_000


@pytest.fixture
def made(tmp_path):
    """A sweep of two points that wait."""
    manifest.add(tmp_path / "results" / "s", [entry("aa"), entry("bb", "dense")])
    return tmp_path / "results" / "s"


def test_the_command_writes_a_page_and_says_where(made, tmp_path, command):
    code, out, err = command(status, made, "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert out.endswith(f"page: {tmp_path / 'page.html'}\n")
    text = (tmp_path / "page.html").read_text()
    assert "0 of 2 points done, 2 waiting" in text
    assert [path.name for path in tmp_path.iterdir()].count("page.html") == 1


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("folder.html", "is a folder; name a file"),
        ("none/page.html", "there is no folder"),
        ("link.html", "is a link"),
        ("page.txt", "a page's name ends in .html"),
    ],
)
def test_a_path_that_is_none_is_refused_before_anything_is_read(
    made, tmp_path, command, monkeypatch, path, why
):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link.html").symlink_to(tmp_path / "mine")
    monkeypatch.setattr(status, "read_all", None)
    code, out, err = command(status, made, "--html", tmp_path / path)
    assert (code in (1, 2), out) == (True, "")
    assert why in err
    assert err.count("\n") == 1
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_page_needs_the_name_of_a_sweep(command, tmp_path):
    code, _, err = command(status, "--html", tmp_path / "page.html")
    assert (code, err) == (2, "error: --html is of one sweep; name it before\n")


def test_a_sweep_keeps_its_page_and_it_is_no_run(made, capsys):
    with kept_page(made, "s", 2):
        assert 'http-equiv="refresh" content="5"' in (made / "status.html").read_text()
    assert "http-equiv" in (text := (made / "status.html").read_text())
    assert 'http-equiv="refresh"' not in text
    page = made / "status.html"
    assert capsys.readouterr().out == f"watch it fill in: {page}\nits page: {page}\n"
    assert sweep_folders(made.parent) == [made]
    assert list(find_records(made)) == []
    assert "page" not in [thread.name for thread in threading.enumerate()]


def test_it_writes_again_and_each_time_takes_a_hundredth_of_a_core(made, monkeypatch):
    monkeypatch.setattr(keeping, "_LEAST", 0.001)
    page = keeping._Kept(made, "s")
    clock = iter((0.0, 0.5, 1.0, 1.001))
    monkeypatch.setattr(keeping.time, "thread_time", lambda: next(clock))
    assert page.write()
    assert page.every == pytest.approx(50)
    assert page.write()
    assert page.every == pytest.approx(0.1)


def test_a_page_that_cannot_be_written_is_a_note_and_the_sweep_goes_on(made, capsys, monkeypatch):
    (made / "status.html").mkdir()
    for _ in range(2):
        with kept_page(made, "s", 2):
            pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 2
    assert "status.html is not written: " in err
    with kept_page(made, "s", 1):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_link_of_its_name_is_replaced_and_not_followed(made, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (made / "status.html").symlink_to(tmp_path / "mine")
    with kept_page(made, "s", 2):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (made / "status.html").is_symlink()
