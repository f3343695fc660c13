"""Each subcommand on a sweep's records: what it prints, writes and refuses."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import commands
from analysis.__main__ import main
from analysis.isoflop.brief import _lowest
from analysis.parser import list_commands
from tests.analysis.expert_laws import joint_runs
from tests.analysis.tables import BESIROGLU, surface
from tests.extending import follow

pytestmark = pytest.mark.usefixtures("few_draws")
PORIAN = ["--table", "column.n_params=params", "--table", "column.n_tokens=tokens"]


def words(text):
    return " ".join(text.split())


def test_isoflop_writes_the_table_the_fits_and_the_figure(sweep, capsys):
    assert main(["isoflop", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "Held-out perplexity" in out
    assert "moe: scored with routing that sees later tokens; not causal" in out
    assert "not shown: 1 runs that failed or diverged" in out
    assert len(pd.read_csv(sweep / "table.csv")) == 31
    fits = json.loads((sweep / "isoflop.json").read_text())
    assert len(fits["curves"]) == 6
    assert [law["model"] for law in fits["laws"]] == ["dense", "moe", "peer"]
    assert (sweep / "isoflop.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("undrawn")
def test_a_brief_isoflop_is_a_line_a_curve(sweep, capsys):
    assert main(["isoflop", str(sweep), "--brief"]) == 0
    title, head, *rows = capsys.readouterr().out.split("\n\n")[0].split("\n")
    assert title == "Minima of the fitted curves:"
    assert head.split()[:4] == ["FLOPs", "model", "lowest", "loss"]
    curves = json.loads((sweep / "isoflop.json").read_text())["curves"]
    budgets = sorted({c["budget"] for c in curves})
    rows, said = rows[: len(curves)], rows[len(curves) :]
    for row, c in zip(rows, sorted(curves, key=lambda c: c["budget"]), strict=True):
        low, high = c["loss_interval"]
        shown = f"{c['loss_opt']:.3f} ({low:.3f} to {high:.3f})"
        assert row.startswith(f"{c['budget']:.3g}")
        assert row.split()[1] == c["model"]
        assert f" {shown} " in row
        assert f" {c['perplexity_opt']:.1f} " in row
        assert row.endswith(", ".join(c["flags"]) or "none")
    assert [line.split()[1] for line in said] == [f"{budget:.3g}" for budget in budgets]


def test_the_lowest_is_named_where_the_intervals_tell():
    """Independent normal estimates: their difference's interval is that of its variance."""

    def curve(model, loss, half):
        return SimpleNamespace(
            model=model, budget=1e12, loss_opt=loss, loss_interval=(loss - half, loss + half),
            inside=True,
        )  # fmt: skip

    clear, *_ = _lowest([curve("a", 3.2, 0.03), curve("b", 3.1, 0.04), curve("c", 3.4, 0.01)])
    assert clear == "At 1e+12 FLOPs b is lowest, by 0.100 (0.050 to 0.150) below a."
    (tie,) = _lowest([curve("a", 3.14, 0.03), curve("b", 3.1, 0.04)])
    assert tie == "At 1e+12 FLOPs the lowest is open: b is below a by 0.040 (-0.010 to 0.090)."
    wide = [curve("a", 3.2, 0.03), curve("b", 3.1, 0.04), curve("c", 3.4, 0.4)]
    (tie,) = _lowest(wide)  # the third is not distinguishable from the first, though the second is
    assert tie.startswith("At 1e+12 FLOPs the lowest is open: b is below c by 0.300 (-0.10")
    assert _lowest([curve("a", 3.2, 0.03)]) == []


@pytest.mark.usefixtures("undrawn")
def test_a_brief_isoflop_says_where_there_is_no_minimum(tmp_path, capsys):
    """Losses that only bend downwards."""
    lines = [f"m,1e18,{n},{loss}" for n, loss in ((1e6, 3.0), (2e6, 3.1), (4e6, 3.1), (8e6, 3.0))]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["model,budget,n_params,loss", *lines]))
    assert main(["isoflop", str(path), "--table", "flops=6nd", "--brief"]) == 0
    row = capsys.readouterr().out.split("\n")[-6:]
    assert any(line.split()[:5] == ["1e+18", "m", "-", "-", "-"] for line in row), row


def test_json_is_all_that_is_printed_of_a_size_a_method_a_window_and_a_noise(sweep, capsys):
    options = ["--method", "akima", "--n-nearest", "4", "--noise", "0.01", "--json"]
    assert main(["isoflop", str(sweep), *options, "--x", "n_active_params"]) == 0
    fits = json.loads(capsys.readouterr().out)
    assert fits["x_name"] == "n_active_params"
    assert (fits["method"], fits["n_nearest"]) == ("akima", 4)
    assert {curve["n_points"] for curve in fits["curves"]} == {4}
    assert {curve["noise"] for curve in fits["curves"]} == {0.01}


@pytest.mark.usefixtures("undrawn")
def test_parametric_fits_each_model(sweep, capsys, tmp_path):
    out = tmp_path / "elsewhere"
    assert main(["parametric", str(sweep), "--draws", "50", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.count("L = E + A/N^alpha + B/D^beta") == 3
    assert "starts reached the best value" in text
    fits = json.loads((out / "parametric.json").read_text())
    assert set(fits) == {"schema", "dense", "moe", "peer"}
    assert set(fits["dense"]["params"]) == {"E", "A", "B", "alpha", "beta"}
    assert {"contours_dense.png", "residuals_peer.png"} <= {p.name for p in out.iterdir()}


def test_parametric_names_an_unknown_model(sweep, capsys):
    assert main(["parametric", str(sweep), "--model", "pkm"]) == 2
    assert "--model pkm has no finished run; the table has dense, moe, peer" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("undrawn")
def test_experts_compares_laws(tmp_path, capsys):
    rows = [
        {"model": "peer", "n_experts": E, "n_active_params": N, "n_params": N * 2, "loss": loss}
        for N in (1e6, 3e6, 1e7)
        for E in (64, 256, 1024, 4096, 16384)
        for loss in [1.5 + 30 * N**-0.2 * E**-0.07]
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["experts", str(tmp_path / "runs.csv")]) == 0
    text = capsys.readouterr().out
    assert "held out: backbone_params = 1e+07, the largest" in text
    assert "-d ln L / d ln E of each size" in text
    assert "averaged; beyond 16384 experts it trusts that one of the forms holds" in text
    folder = tmp_path / "runs-analysis"  # a file's results stand beside it
    found = json.loads((folder / "experts.json").read_text())
    assert found["laws"][0]["form_name"] in ("power_floor", "clark_floor")
    assert found["fits"]["power_floor"]["params"]["b"] == pytest.approx(0.07, rel=1e-6)
    assert (folder / "experts.png").exists()


@pytest.mark.night
def test_experts_of_a_joint_law_draws_the_others(tmp_path, capsys):
    table = joint_runs("joint", noise=0.001)
    path = tmp_path / "runs.csv"
    columns = ["model", "n_active_params", "n_params", "n_tokens", "n_experts", "loss"]
    table[columns].to_csv(path, index=False)
    how = ["--hold-out", "cells", "--residual", "loss"]
    assert main(["experts", str(path), "--form", "joint", "--form", "power_floor", *how]) == 0
    text = capsys.readouterr().out
    assert "held out: the 24 runs of the most compute" in text
    assert "figure: " in text
    found = json.loads((tmp_path / "runs-analysis" / "experts.json").read_text())
    assert found["laws"][0]["form_name"] == "joint"
    assert found["fits"]["joint"]["residual"] == "loss"
    assert found["size_slopes"]
    assert main(["experts", str(path), "--form", "joint", "--out", str(tmp_path / "alone")]) == 0
    assert "figure: " not in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "alone").iterdir()] == ["experts.json"]
    few = table[table["n_tokens"] < 1e10]  # two token counts
    few[columns].to_csv(path, index=False)
    assert main(["experts", str(path), "--form", "joint"]) == 2
    assert "(beta and zeta are not identifiable)" in capsys.readouterr().err
    plan = ["plan", str(path), "--budget", "1e20", "--form", "joint"]
    assert main(plan) == 2


@pytest.mark.usefixtures("undrawn")
def test_a_few_runs_that_decide_are_said_unasked(published, tmp_path, capsys):
    path = str(published("chinchilla_epoch_245.csv"))
    how = ["--draws", "20", "--out", str(tmp_path)]
    assert main(["parametric", path, *how]) == 0
    assert "5 of 245 runs" in capsys.readouterr().out
    assert main(["parametric", path, "--no-influence", *how]) == 0
    assert "5 of 245 runs" not in capsys.readouterr().out


@pytest.mark.night
def test_surfaces_and_influence_of_a_table(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    sizes, tokens = (
        v.ravel() for v in np.meshgrid(np.geomspace(2e8, 6e9, 7), np.geomspace(2e9, 3e11, 7))
    )
    loss = surface(sizes, tokens, **BESIROGLU)
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 0.003, 49))
    table = pd.DataFrame({"n_params": sizes, "n_tokens": tokens, "loss": loss, "model": "dense"})
    table.to_csv(path, index=False)
    how = [
        "--form",
        "chinchilla",
        "--form",
        "over_trained",
        "--hold-out",
        "tokens",
        "--draws",
        "20",
    ]
    assert main(["surfaces", str(path), *how]) == 0
    text = capsys.readouterr().out
    assert "dense: 49 runs; held out: the 7 of the most tokens" in text
    assert "together (95 % intervals that hold those of each)" in text
    folder = tmp_path / "runs-analysis"
    found = json.loads((folder / "surfaces.json").read_text())["dense"]
    assert {one["form_name"] for one in found["surfaces"]} == {"chinchilla", "over_trained"}
    assert found["fits"]["chinchilla"]["params"]["alpha"] == pytest.approx(0.3478, abs=0.05)
    assert main(["parametric", str(path), "--influence", "--draws", "20"]) == 0
    assert "the 1 of 49 runs that each parameter depends on most" in capsys.readouterr().out
    found = json.loads((folder / "parametric.json").read_text())["dense"]
    assert found["influence"]["n_out"] == 1
    assert len(found["influence"]["sets"]) == 5
    assert main(["parametric", str(path), "--draws", "20"]) == 0  # looked for, and nothing to tell
    assert "depends on most" not in capsys.readouterr().out
    planned = table.assign(budget=6.2 * table["n_params"] * table["n_tokens"], epochs=2.0)
    planned.to_csv(path, index=False)
    how = ["plan", str(path), "--budget", "1e23", "--method", "surfaces", "--unique-tokens", "1e13"]
    assert main(how) == 0
    text = capsys.readouterr().out
    assert "note: dense: C = 6.2 ND, 1e+13 unique tokens; by" in text
    assert "plan for dense at C=1e+23 FLOPs" in text
    one_a_budget = planned.assign(budget=planned["budget"] * (1 + 1e-6 * planned.index))
    one_a_budget.drop_duplicates("budget").to_csv(path, index=False)
    assert main(how[:4]) == 0
    assert "so it is planned by --method surfaces" in capsys.readouterr().out
    assert main([*how[:4], "--method", "slice"]) == 2
    assert "no curve to fit" in capsys.readouterr().err
    table.to_csv(path, index=False)
    few = table.iloc[:5].assign(n_tokens=table["n_tokens"].iloc[::8][:5].to_numpy())
    few.to_csv(path, index=False)
    assert main(["surfaces", str(path)]) == 2
    assert "no model could be fitted: dense: no surface" in capsys.readouterr().err


def test_plan_says_size_tokens_and_loss_of_a_budget(sweep, capsys):
    assert main(["plan", str(sweep), "--budget", "1e12", "--model", "dense"]) == 0
    text = words(capsys.readouterr().out)
    assert "plan for dense at C=1e+12 FLOPs" in text
    assert "n_params =" in text
    assert "extrapolated: 1.67 times beyond the budgets" in text
    assert main(["plan", str(sweep), "--budget", "1e12", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"schema", "dense", "moe", "peer"}


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf"])
def test_plan_refuses_what_is_no_budget(sweep, capsys, budget):
    assert main(["plan", str(sweep), f"--budget={budget}"]) == 2
    assert "must be a finite number of FLOPs above 0" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_foreign_table_is_mapped_and_its_notes_are_reported(published, capsys, tmp_path):
    path = published("porian_rw_tuned_121.csv")
    assert main(["isoflop", str(path), *PORIAN, "--method", "akima", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "note: n_active_params of 121 rows is n_params" in out
    law = json.loads((tmp_path / "isoflop.json").read_text())["laws"][0]["laws"]["n_params"]
    assert law["params"]["exponent"] == pytest.approx(0.4970288, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["isoflop", "{here}/nowhere"], "no such file or folder"),
        (["isoflop", "{here}"], "no record.json below"),
        (["report", "{here}"], "no record.json below"),
        (["experts", "{here}/runs.txt"], "its suffix is not .csv, .tsv or .parquet"),
        (["isoflop", "{here}/runs.csv", "--table", "column.loss"], "must be column.OURS=THEIRS"),
        (["isoflop", "{here}/runs.csv", "--table", "column.loss=lost"], "lost"),
        (["isoflop", "{here}/runs.csv", "--where", "model"], "must be COLUMN=VALUE[,VALUE]"),
        (["isoflop", "{here}/runs.csv", "--where", "model=moe"], "no run has model=moe"),
        (["experts", "{here}/experts.csv", "--size", "-1"], "--size -1 is no column; found series"),
        (["surfaces", "{here}/runs.csv", "--cluster", "us"], "--cluster us is no column; found"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys, arguments, message):
    (tmp_path / "runs.txt").write_text("x")
    (tmp_path / "runs.csv").write_text("n_params,budget,loss\n1e6,1e13,3.5\n")
    rows = [f"peer,{n}e6,{e},{3 + 1 / n + 1 / e:.3f}" for n in range(1, 6) for e in (4, 16, 64)]
    (tmp_path / "experts.csv").write_text("\n".join(["model,n_params,n_experts,loss", *rows]))
    assert main([word.format(here=tmp_path) for word in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_each_file_of_commands_is_a_command():
    files = Path(commands.__path__[0]).glob("[!_]*.py")
    assert list(list_commands()) == sorted(path.stem for path in files)


@pytest.mark.parametrize(("command", "line"), list_commands().items())
def test_each_command_has_a_help(command, line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert line[1:-1] in words(capsys.readouterr().out)
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = words(capsys.readouterr().out)
    assert "a sweep's folder, a CSV or Parquet file" in text
    assert "--table SETTING=VALUE how a foreign table is read" in text


def test_a_reader_that_has_read_enough_and_another_analysis_in_the_folder_are_no_errors(sweep):
    """Console script's folder goes before the one that it is started in."""
    (sweep / "analysis.py").write_text("print('another')")
    run = functools.partial(subprocess.run, cwd=sweep, capture_output=True, text=True, check=False)
    assert run([sys.executable, "-m", "analysis", "--version"]).stdout == "another\n"
    script = f"{Path(sys.executable).with_name('experiments')} analysis"
    done = run(["bash", "-c", f"set -o pipefail; {script} isoflop {sweep} | head -1"])
    assert done.stdout.startswith("Held-out perplexity")
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_command_of_the_analysis(tmp_path):
    printed = words(follow("A command of the analysis", tmp_path))
    assert "extremes say the lowest and the highest loss of each budget" in printed
    assert "fits: runs-analysis/extremes.json" in printed
    assert '"min": 3.4, "max": 3.6' in printed


# Compute multipliers


@pytest.fixture
def two_models(tmp_path):
    """Curves of two models at three budgets; the second has 0.9 of the excess over 1.7 nats."""
    rows = ["model,budget,n_params,loss"]
    for model, share in (("dense", 1.0), ("peer", 0.9)):
        for budget in (1e18, 1e19, 1e20):
            for factor in (0.25, 0.5, 1, 2, 4):
                curved = 0.03 * np.log(factor) ** 2
                loss = 1.7 + share * 100 * budget**-0.1 + curved
                rows.append(f"{model},{budget},{1e8 * (budget / 1e18) ** 0.5 * factor},{loss}")
    path = tmp_path / "two.csv"
    path.write_text("\n".join(rows))
    return path


def test_multiplier_states_what_was_asked_and_draws_it(two_models, capsys):
    options = ["--at", "1e19", "--at-loss", "2.9", "--asymptote", "1.7"]
    assert main(["compare", str(two_models), *options]) == 0
    out = capsys.readouterr().out
    folder = two_models.with_name("two-analysis")
    values = json.loads((folder / "multiplier.json").read_text())
    # 0.9 of the excess is reached with 0.9^(1/alpha) of the compute
    assert [one["multiplier"] for one in values["table"]] == pytest.approx([0.9**-10] * 2, rel=1e-4)
    assert values["at"][0]["compute"] == pytest.approx(1e19)
    assert values["at"][1]["loss"] == 2.9
    assert "E = 1.7 nats/token (given)" in out
    assert "peer 1e+19" in words(out)
    for name in ("forest.png", "multipliers.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_multiplier_of_the_lowest_losses_and_as_json(two_models, capsys):
    options = ["--method", "lowest", "--slopes", "one", "--asymptote", "1.2,1.9", "--json"]
    assert main(["compare", str(two_models), *options]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["slopes"] == "one"
    assert not values["estimated"]
    assert values["table"][0]["multiplier"] == pytest.approx(0.9**-10, rel=1e-4)
