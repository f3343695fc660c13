"""Notebooks run from the first cell to the last, and are stored without their output."""

import contextlib
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from experiments.records.files import write_record
from tests.conftest import REPOSITORY
from tests.records.test_record import record

FOLDER = REPOSITORY / "analysis"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def experts(tmp_path):
    """A sweep over the number of experts at one size and budget, with three seeds."""
    for n_experts in (256, 1024, 4096, 16384):
        for seed in range(3):
            run_id = f"e{n_experts}s{seed}"
            loss = 4.9 + 2 * n_experts**-0.3 + 0.004 * ((seed * 7 + n_experts) % 5 - 2)
            values = {
                "run_id": run_id,
                "model": "peer",
                "seed": seed,
                "n_experts": n_experts,
                "n_params": 150_000 + 64 * n_experts,
                "n_active_params": 150_000 + 16 * int(n_experts**0.5),
                "budget": 2e11,
                "n_tokens": 200_000,
                "val_loss": loss,
                "usage": 0.9,
                "unevenness": 0.5,
                "config": {"model": {"n_heads": 4, "top_k": 8, "query_norm": "batch"}},
            }
            write_record(tmp_path / run_id, record(**values))
    return tmp_path


def read(path):
    """A notebook and its code cells, which are stored without what they printed and showed."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    return notebook, cells


def run(path):
    """Outputs of every code cell, executed in a kernel of its own."""
    from nbclient import NotebookClient

    notebook, cells = read(path)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=120, resources=folder).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    return outputs


def run_here(path, monkeypatch):
    """What the code cells print, and how many figures they leave: in this process, for a kernel
    takes ten seconds to start and to import what is here already.
    """
    monkeypatch.chdir(path.parent)
    mpl.use("Agg")
    plt.close("all")
    out, names = io.StringIO(), {}
    with contextlib.redirect_stdout(out):
        for cell in read(path)[1]:
            code = "".join(line for line in cell.source.splitlines(True) if line[0] != "%")
            exec(compile(code, path.name, "exec"), names)
    figures = plt.get_fignums()
    plt.close("all")
    return out.getvalue(), len(figures)


def texts(outputs):
    return "".join(output.get("text", "") for output in outputs)


def n_figures(outputs):
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_isoflop(sweep, monkeypatch):
    monkeypatch.setenv("SWEEP", str(sweep))
    printed, n_figures = run_here(FOLDER / "isoflop.ipynb", monkeypatch)
    assert n_figures == 4
    assert "peer: power laws over 2 budgets" in printed


def test_experts(experts, monkeypatch):
    monkeypatch.setenv("SWEEP", str(experts))
    printed, n_figures = run_here(FOLDER / "experts.ipynb", monkeypatch)
    assert n_figures == 2
    assert "held out: n_experts = 1.638e+04, the largest" in printed


@pytest.mark.parametrize(
    ("name", "n", "said"),
    [
        pytest.param("isoflop", 4, "peer: power laws over 3 budgets", marks=pytest.mark.night),
        pytest.param(
            "experts",
            2,
            "peer: 24 runs; held out: n_experts = 2.621e+05, the largest",
            marks=pytest.mark.night,
        ),
        ("published", 0, "nothing of it is here; docs/reproduced.md says where it is"),
    ],
)
def test_in_a_fresh_clone_nothing_else_is_needed(name, n, said, monkeypatch, tmp_path):
    """By default they are of committed results; and the published runs are left out."""
    for variable in ("SWEEP", "WHERE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PUBLISHED_RUNS", str(tmp_path))  # an empty folder
    outputs = run(FOLDER / f"{name}.ipynb")
    assert n_figures(outputs) == n
    assert said in texts(outputs)


@pytest.mark.night
def test_where_takes_some_of_the_runs(sweep, monkeypatch):
    monkeypatch.setenv("SWEEP", str(sweep))
    monkeypatch.setenv("WHERE", "model=peer,dense")
    printed = texts(run(FOLDER / "isoflop.ipynb"))
    assert "peer: power laws over 2 budgets" in printed
    assert "moe: " not in printed


@pytest.mark.night
def test_published(published, monkeypatch):
    folder = published("chinchilla_epoch_245.csv").parent
    published("clark_final_163.csv")
    monkeypatch.setenv("PUBLISHED_RUNS", str(folder))
    outputs = run(FOLDER / "published.ipynb")
    assert n_figures(outputs) == 3
    assert "alpha = 0.34731" in texts(outputs)
    assert "n_params* = 0.1182 C^0.4970" in texts(outputs)


def test_no_notebook_is_left_out():
    assert {p.stem for p in FOLDER.glob("*.ipynb")} == {"isoflop", "experts", "published"}
