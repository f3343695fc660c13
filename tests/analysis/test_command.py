"""The command, the figure, the notebook and what importing analysis brings along."""

import json
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from analysis import FitStatus, draw_isoflop, fit_isoflop, load_table
from analysis.__main__ import main
from tests.conftest import REPOSITORY

mpl.use("Agg")


def test_writes_the_table_the_fits_and_the_figure(sweep, capsys):
    assert main(["isoflop", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "Held-out perplexity" in out
    assert "moe: scored with routing that sees later tokens; not causal" in out
    assert "not shown: 1 runs that failed or diverged" in out
    assert len(pd.read_csv(sweep / "table.csv")) == 31
    fits = json.loads((sweep / "isoflop.json").read_text())
    assert len(fits["curves"]) == 6
    assert (sweep / "isoflop.png").read_bytes().startswith(b"\x89PNG")


def test_prints_json_when_asked(sweep, capsys):
    assert main(["isoflop", str(sweep), "--json", "--x", "n_params"]) == 0
    assert json.loads(capsys.readouterr().out)["x_name"] == "n_params"


def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["isoflop", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no record.json below")
    assert err.count("\n") == 1


def test_the_figure_marks_minima_and_doubts(sweep):
    table = load_table(sweep)
    fit = fit_isoflop(table)
    figure = draw_isoflop(table, fit)
    assert [axis.get_title() for axis in figure.axes] == [
        "$2\\times10^{11}$ training FLOPs",
        "$6\\times10^{11}$ training FLOPs",
    ]
    assert "total parameters" in figure.axes[0].get_xlabel()
    assert "perplexity" in figure.axes[0].get_ylabel()
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"dense", "moe", "peer", "minimum"} <= labels
    stars = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "*"]
    inside = [c for c in fit.curves if c.x_min <= c.x_opt <= c.x_max]
    assert len(stars) == len(inside) > 0
    hollow = [star for star in stars if star.get_markerfacecolor() == "white"]
    assert len(hollow) == sum(c.status is FitStatus.DOUBTFUL for c in inside)
    plt.close(figure)


def test_analysis_does_not_import_torch():
    code = "import sys, analysis, analysis.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", sorted((REPOSITORY / "analysis").glob("*.ipynb")))
def test_notebooks_run_and_are_stored_stripped(path, sweep, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    monkeypatch.setenv("SWEEP", str(sweep))
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=120, resources=folder).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
