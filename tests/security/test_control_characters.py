"""What moves a terminal's cursor or ends a drawing is shown as an escape, wherever it is from."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main as analysis
from analysis.table.load import load_table
from analysis.table.sources import read_source
from experiments import status
from experiments.__main__ import commands
from experiments.records.files import read_record, write_record
from experiments.sweep import manifest
from experiments.system.command import exit_codes
from experiments.system.plain_text import may_have_controls, printable, printable_values, raw
from experiments.system.text_table import aligned
from tests.analysis.tables import SIZES, growing
from tests.conftest import REPOSITORY
from tests.security.strangers import plant_manifest, record_of

COLUMNS = ["model", "budget", "n_params", "n_tokens", "loss", "status"]
EVIL = "de\x1b[2Jn\x07s\x9be\u202e\x00\ud800\r"
SHOWN = r"de\x1b[2Jn\x07s\x9be\u202e\x00\ud800\r"


def runs() -> pd.DataFrame:
    """A plain table: three budgets of one model."""
    budgets = (1e12, 4e12, 1.6e13)
    rows = [("dense", c, n, c / n / 6, growing(n, c), "done") for c in budgets for n in SIZES]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_what_is_escaped():
    assert printable(EVIL) == SHOWN
    assert printable("naïve, 漢字 ‘…’ 🙂\n\t") == "naïve, 漢字 ‘…’ 🙂\\n\\t"
    assert printable("a\nb\tc\x1b", "\n\t") == "a\nb\tc\\x1b"
    assert printable_values({EVIL: [EVIL, {"a": "b\n"}, 1.5, None]}) == {
        SHOWN: [SHOWN, {"a": "b\n"}, 1.5, None]
    }


@pytest.mark.parametrize("character", [*map(chr, range(32)), *"\x7f\x85\u202e\u2067\ud800"])
@pytest.mark.parametrize("ascii_alone", [True, False])
def test_no_control_character_in_json_is_overlooked(character, ascii_alone):
    content = json.dumps({"a": character}, ensure_ascii=ascii_alone)
    if character not in "\n\t":
        assert may_have_controls(content.encode(errors="surrogatepass"))
    assert not may_have_controls(json.dumps({"a": "naïve\n\t"}, ensure_ascii=False).encode())


def test_records_and_manifests_come_without(tmp_path):
    raw = {"model": {"top_k": EVIL}, "sweep": "x"}
    record = record_of(raw, model=EVIL, error="line 1\n\x1bline 2", status="failed")
    read = read_record(write_record(tmp_path / "run", record))
    assert (read.model, read.error) == (SHOWN, "line 1\n\\x1bline 2")
    assert read.config["model"]["top_k"] == SHOWN
    plant_manifest(tmp_path / "s", {}, label=EVIL)
    (entry,) = manifest.load(tmp_path / "s").entries.values()
    assert entry.label == SHOWN


@pytest.mark.parametrize("words", [["s"], ["s", "--json"], []])
def test_status_shows_escapes(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "s"
    write_record(folder / "a", record_of({}, model=EVIL, error=EVIL, status="failed", run_id="a"))
    plant_manifest(folder, {}, run_id="b", label=EVIL)
    (tmp_path / "results" / "x\x1b[2J").mkdir()
    (tmp_path / "results" / "x\x1b[2J" / "manifest.jsonl").write_text("{}\n")
    monkeypatch.setattr("sys.argv", ["status", *words])
    status.main()
    said = "".join(capsys.readouterr())
    assert "x1b" in said or "u001b" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def test_errors_and_tables_show_escapes(capsys):
    with pytest.raises(SystemExit), exit_codes():
        raise ValueError(f"{EVIL[:-1]} is no name")
    assert capsys.readouterr().err == f"error: {SHOWN[:-2]} is no name\n"
    assert aligned([("a\nb", EVIL)]) == [rf"a\nb  {SHOWN}"]


def test_tables_of_all_kinds_come_without(tmp_path):
    frame = runs().assign(model="a\x1bb")
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.rename(columns={"model": "mo\x07del"}).to_parquet(tmp_path / "t.parquet")
    assert set(read_source(tmp_path / "t.csv").frame["model"]) == {r"a\x1bb"}
    assert r"mo\x07del" in read_source(tmp_path / "t.parquet").frame
    assert set(load_table(tmp_path / "t.csv")["series"]) == {r"a\x1bb"}
    write_record(tmp_path / "s" / "a\x1b", record_of({}, model="a\x1bb"))
    source = read_source(tmp_path / "s")
    assert (*source.frame["model"], *source.frame.index) == (r"a\x1bb", r"a\x1b")


def test_an_export_of_wandb_comes_without(tmp_path):
    frame = runs()
    rows = [json.dumps({**row, "model": "a\x1bb"}) for row in frame.to_dict("records")]
    pd.DataFrame({"name": "x", "config": rows, "summary": "{}"}).to_csv(tmp_path / "w.csv")
    assert set(load_table(tmp_path / "w.csv")["series"]) == {r"a\x1bb"}


def test_a_report_is_not_ended(tmp_path, capsys):
    frame = runs().assign(model="a\x1b$\\frac")
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert analysis(["isoflop", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out")]) == 0
    said = "".join(capsys.readouterr())
    assert r"a\x1b$\frac" in said
    assert "\x1b" not in said


def test_what_a_command_prints_is_visible_and_its_own_bars_go_on(capsys):
    out, err = sys.stdout, sys.stderr
    with exit_codes():
        print(EVIL[:-1], "a\tb", file=sys.stdout)
        print(f"\r{EVIL[:-2]}\r", end="", file=sys.stderr)  # as a bar of progress
        print("\x1b[K", end="", file=raw(sys.stderr))
        sys.stdout.writelines(["\x1b", "\n"])
        with exit_codes():  # run's own
            print("\x1b")
    assert (sys.stdout, sys.stderr) == (out, err)
    said = capsys.readouterr()
    assert said.out == f"{SHOWN[:-2]} a\tb\n\\x1b\n\\x1b\n"
    assert said.err == f"\r{SHOWN[:-8]}\r\x1b[K"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError("\x1b")])
def test_the_streams_are_what_they_were_after_any_end(error, capsys):
    out, err = sys.stdout, sys.stderr
    with pytest.raises(SystemExit), exit_codes():
        raise error
    assert (sys.stdout, sys.stderr) == (out, err)


def test_the_traceback_of_a_fault_is_visible(tmp_path):
    code = (
        "from experiments.system.command import exit_codes\n"
        "with exit_codes():\n    raise AssertionError('a\\x1b[2Jb\\x07')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert rb"AssertionError: a\x1b[2Jb\x07" in done.stderr
    assert b"\x1b" not in done.stderr


def test_every_command_prints_so():
    """By its source: a command does its work in exit_codes, run_words, visible or a question of
    inspect, which asks run_words.
    """
    assert len(commands()) > 10
    for name in commands():
        entry = "analysis.__main__" if name == "analysis" else f"experiments.{name}"
        module = find_spec(entry)
        source = Path(module.origin).read_text()
        ways = ("with exit_codes():", "run_words(", ".ask(given", "with visible()")
        assert any(way in source for way in ways), entry


def test_an_error_has_no_cell_of_100_000_characters(capsys):
    with pytest.raises(SystemExit), exit_codes():
        raise ValueError(f"line 3: config={'x' * 10**5!r} is not a dict; export it again")
    said = capsys.readouterr().err
    assert len(said) < 2100
    assert "xx [... 98,0" in said
    assert said.endswith("is not a dict; export it again\n")


def test_a_pre_registration_comes_without(tmp_path, capsys):
    path = tmp_path / "a\x1b[2J.yaml"
    path.write_text(
        'about: "a\\e[2J\\a"\nlayers: [dense, peer]\nbudgets: [3e13]\n'
        "where: {n_layers: [3, 4, 5, 6, 7]}\nprimaries:\n- {name: gain, kind: difference, "
        "layer: peer, baseline: dense, budgets: [3e13], refuted_if: holds 0}\n"
    )
    study = str(REPOSITORY / "results" / "study" / "isoflop")
    command = ["compare", study, "--preregistered", str(path), "--out", str(tmp_path / "out")]
    assert analysis(command) == 0
    said = "".join(capsys.readouterr())
    assert r"about: a\x1b[2J\x07" in said
    assert "\x1b" not in said
    assert "\x07" not in said
