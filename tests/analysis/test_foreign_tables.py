"""Tables of other projects through the command, from the file to the fit and its page."""

import contextlib
import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.table.load import load_table
from tests.analysis.tables import HOFFMANN, best_size, surface

pytestmark = pytest.mark.usefixtures("few_draws", "undrawn")

BUDGETS = (1e18, 4e18, 16e18)
BITS = 4.4 * math.log(2)  # nats/token of a bit/byte, of a tokenizer with 4.4 bytes a token


def rows():
    """C, N, D and the loss of Hoffmann's surface, five sizes about the best of each budget."""
    for C in BUDGETS:
        for N in best_size(C, **HOFFMANN) * np.array([0.25, 0.5, 1, 2, 4]):
            yield C, N, C / 6 / N, surface(N, C / 6 / N, **HOFFMANN)


def write(path, make):
    """CSV of make(C, N, D, loss), a dict a run."""
    pd.DataFrame([make(*row) for row in rows()]).to_csv(path, index=False)
    return str(path)


def nanochat(C, N, D, loss):
    return {
        "flops_budget": C,
        "depth": 12,
        "model_dim": 768,
        "params_transformer": 0.7 * N,
        "params_total": N,
        "num_iterations": 1000,
        "tokens_trained": D,
        "val_bpb": loss / BITS,
        "core_score": 0.1,
        "train_time_sec": 10,
    }


def marin(C, N, D, loss):
    return {
        "Name": f"isoflop-{C:.0e}-{N:.0e}",
        "State": "finished",
        "ID": f"{C:.0e}{N:.0e}",
        "parameter_count": N,
        "throughput/total_gflops": C / 1e9,
        "throughput/total_tokens": D,
        "eval/paloma/c4_en/bpb": loss / BITS,
        "optimizer.learning_rate": 1e-3,
    }


def olmo(C, N, D, loss):
    return {
        "Name": f"{C:.0e}-{N:.0e}",
        "State": "finished",
        "num_params": N,
        "throughput/total_training_Gflops": C / 1e9,
        "throughput/total_tokens": D,
        "eval/c4_en-validation/CrossEntropyLoss": loss,
        "train/loss": 2.0,
    }


def letters(C, N, D, loss):
    return {"N": N, "D": D, "C (PFLOPs)": C / 1e15, "val_ppl": math.exp(loss), "peak_lr": 1e-3}


def minima(*words):
    """Budget, size and loss of each fitted minimum, by the command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["isoflop", *words, "--json"]) == 0
    curves = json.loads(printed.getvalue())["curves"]
    return np.array([(c["budget"], c["x_opt"], c["loss_opt"]) for c in curves])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Minima of the same runs, each column named by hand."""
    path = tmp_path_factory.mktemp("plain") / "plain.csv"
    write(path, lambda *row: dict(zip("CNDL", row, strict=True)))
    ours = {"budget": "C", "n_params": "N", "n_tokens": "D", "loss": "L"}
    given = [word for pair in ours.items() for word in ("--table", f"column.{'='.join(pair)}")]
    return minima(str(path), *given)


@pytest.mark.parametrize(
    ("make", "per_byte"), [(nanochat, True), (marin, True), (olmo, False), (letters, False)]
)
def test_a_table_is_fitted_as_it_is(tmp_path, plain, make, per_byte):
    found = minima(write(tmp_path / "runs.csv", make))
    assert found[:, :2] == pytest.approx(plain[:, :2], rel=1e-6)
    # ln 2 * (bits/byte) is the loss over 4.4 bytes a token; a parabola is linear in its losses
    assert found[:, 2] == pytest.approx(plain[:, 2] / (4.4 if per_byte else 1), rel=1e-6)


def test_bits_per_byte_are_called_that_on_screen_and_on_the_page(tmp_path, capsys):
    path = write(tmp_path / "results.csv", nanochat)
    assert main(["isoflop", path]) == 0
    out = capsys.readouterr().out
    assert "Held-out bits per byte (one run each):" in out
    C, N, _, loss = next(rows())
    assert f"{loss / BITS:.4f}" in out.split("series")[1].split("\n")[2]
    assert "note: loss is val_bpb, in bit/byte: times 0.693147" in out
    assert main(["report", path]) == 0
    page = (tmp_path / "results-analysis" / "report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "held-out perplexity per byte" in text
    assert "loss in nats/byte on held-out text" in text
    assert not re.search(r"nats/token|per token", text)
    written = load_table(tmp_path / "results-analysis" / "table.csv")
    assert set(written["loss_unit"]) == {"nats/byte"}
    assert written["budget"][0] == C
    assert written["n_params"].min() == pytest.approx(N)


def open_athena(path):
    parts = [("comma", "a", 0.0), ("dclm", "a", 0.1), ("nemotron", "b", -0.1)]
    runs = [
        {"source": "marin", "dataset": dataset, "model": "llama", "condition": condition}
        | {"tokens": D, "params": N, "budget": C, "loss": loss + more}
        for dataset, condition, more in parts
        for C, N, D, loss in rows()
    ]
    pd.DataFrame(runs).to_csv(path, index=False)
    return str(path)


def test_datasets_are_not_merged_in_silence(tmp_path, capsys):
    path = open_athena(tmp_path / "runs.csv")
    assert main(["isoflop", path]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: 15 cells (e.g. llama budget=1e+18 n_params=")
    assert "they differ in dataset, and the lowest loss counts; --series dataset makes each a " in (
        printed.err
    )
    assert "--where dataset=VALUE takes one" in printed.err
    assert "Held-out perplexity per token (lowest over dataset):" in printed.out
    assert "Fitted minima (lowest over dataset):" in printed.out
    assert main(["report", path]) == 0
    page = (tmp_path / "runs-analysis" / "report.html").read_text()
    assert "of the mean loss over seeds, lowest over dataset. Bold" in page
    assert page.count("they differ in dataset") >= 1
    cautions = json.loads((tmp_path / "runs-analysis" / "fits.json").read_text())["cautions"]
    assert any("they differ in dataset" in text for text in cautions)


def test_series_by_columns_or_none(tmp_path, capsys):
    path = open_athena(tmp_path / "runs.csv")
    assert main(["isoflop", path, "--series", "dataset,condition", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    curves = json.loads(printed.out)["curves"]
    assert {c["model"] for c in curves} == {"comma a", "dclm a", "nemotron b"}
    at = {c["model"]: c["loss_opt"] for c in curves if c["budget"] == 1e18}
    assert at["dclm a"] - at["comma a"] == pytest.approx(0.1)
    words = ["isoflop", path, "--series", "none", "--where", "dataset=comma", "--json"]
    assert main(words) == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    assert {c["model"] for c in curves} == {"all"}
    assert len(curves) == len(BUDGETS)


def test_models_that_are_sizes_make_one_curve(tmp_path, capsys):
    names = dict(zip(sorted({N for _, N, _, _ in rows()}), range(100), strict=False))
    path = write(
        tmp_path / "runs.csv",
        lambda C, N, D, loss: {
            "model": f"llama-d{64 * names[N] + 64}",
            "params": N,
            "tokens": D,
            "flops": C,
            "loss": loss,
        },
    )
    assert main(["isoflop", path, "--brief"]) == 0
    out = capsys.readouterr().out
    assert (
        "note: model names sizes (llama-d64, llama-d128, and 13 more): these runs are one " in out
    )
    assert "--series given_model makes each a series" in out
    assert out.count(" llama ") >= len(BUDGETS)


def test_budgets_that_each_run_counted_are_joined(tmp_path, capsys):
    def counted(C, N, D, loss):
        off = 1 + 0.009 * math.sin(N)  # steps are whole
        return marin(C * off, N, D * off, loss)

    path = write(tmp_path / "runs.csv", counted)
    assert main(["isoflop", path, "--brief"]) == 0
    printed = capsys.readouterr()
    assert "15 values of budget, as runs counted them, are 3 budgets" in printed.out
    assert "--table budget_tolerance=0 keeps them apart" in printed.out
    heading = next(line for line in printed.out.splitlines() if line.startswith("Minima of"))
    assert "(15 losses moved along the curves to their budget's FLOPs, by at most " in heading
    assert "nats/byte" in heading
    assert printed.err == ""
    assert main(["isoflop", path, "--table", "budget_tolerance=0"]) == 2
    printed = capsys.readouterr()
    error = printed.err
    assert "model: 15 budgets with one size each are left out, and a curve needs 3: " in error
    assert "--table budgets=6e18,1e19 or --table budget_tolerance=0.05 joins" in error
    assert main(["isoflop", path, "--table", "budgets=1e18,4e18", "--json"]) == 0
    printed = capsys.readouterr()
    assert [c["budget"] for c in json.loads(printed.out)["curves"]] == [1e18, 4e18]
    assert printed.err.startswith("warning: left out: 5 of 15 runs, whose budgets are not within")
    assert printed.err.count("\n") == 1


def test_units_and_separators_that_are_given(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    lines = ["params;tokens;flops;loss"]
    lines += [
        f"{N / 1e6:.6f};{D / 1e9:.6f};{C / 1e9:.0f};{loss / math.log(2):.6f}".replace(".", ",")
        for C, N, D, loss in rows()
    ]
    path.write_text("\n".join(lines))
    assert main(["isoflop", str(path)]) == 2
    assert "mixed units?" in capsys.readouterr().err
    units = ("budget=GFLOP", "n_params=M", "n_tokens=B", "loss=bit")
    words = [word for unit in units for word in ("--table", f"unit.{unit}")]
    assert main(["isoflop", str(path), *words, "--table", "separator=semicolon", "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    assert [c["budget"] for c in curves] == list(BUDGETS)
    middle = [min(losses) for losses in np.array([row[3] for row in rows()]).reshape(3, 5)]
    assert [min(c["losses"]) for c in curves] == pytest.approx(middle, abs=1e-5)


# Published runs


def test_step_law_loads_by_alias_and_names_the_batch(published, tmp_path, capsys):
    path = published("steplaw_dense_1911.csv")
    table = load_table(path)
    assert len(table) == 1911
    given = pd.read_csv(path)
    for ours, theirs in (
        ("n_params", "N"),
        ("n_tokens", "D"),
        ("loss", "smooth loss"),
        ("lr", "lr"),
    ):
        assert sorted(table[ours]) == sorted(given[theirs])
    (warning,) = table.attrs["warnings"]
    cells = len(given[["N", "D"]].drop_duplicates())
    assert warning.startswith(f"{cells} cells (e.g. model n_tokens=1e+11 n_params=2.147e+08)")
    assert "they differ in bs, and the lowest loss counts" in warning
    assert main(["parametric", str(path), "--draws", "20", "--out", str(tmp_path)]) == 0
    assert "model (lowest over bs)\n" in capsys.readouterr().out
    assert main(["isoflop", str(path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "--table column.budget=MY_NAME, or budget by --table flops=6nd" in error


def test_clarks_routers_are_not_merged_in_silence(published):
    path = published("clark_final_163.csv")
    (warning,) = load_table(path).attrs["warnings"]
    given = pd.read_csv(path)
    per_cell = given.groupby(["num_experts", "total_parameter_count"])["router_type"].nunique()
    assert warning.startswith(f"{(per_cell > 1).sum()} cells ")
    assert "they differ in router_type, and the lowest loss counts" in warning
    assert load_table(path, columns={"model": "router_type"}).attrs["warnings"] == ()


@pytest.mark.parametrize("name", ["porian_rw_tuned_121.csv", "chinchilla_epoch_245.csv"])
def test_tables_of_a_run_a_cell_have_no_warning(published, name):
    assert load_table(published(name)).attrs["warnings"] == ()
