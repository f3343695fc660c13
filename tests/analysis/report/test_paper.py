"""Files of `report --paper`: LaTeX tables, figures as wide as columns, a document of all."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text as Words

from analysis import figures
from analysis.figures.layout import keep_outer_labels, one_scale, panels
from analysis.figures.palette import looks
from analysis.figures.plot import Plot
from analysis.figures.style import Columns
from analysis.fitting.intervals import Estimate
from analysis.report.gallery import Draft
from analysis.report.page.blocks import DataTable
from analysis.report.paper.booktabs import LONG, escape, tabular
from analysis.report.paper.write import COLUMNS, write_paper


def table(n_rows=2, **more):
    frame = pd.DataFrame(
        {
            "model": [f"peer_{i} & 5%" for i in range(n_rows)],
            "loss": [Estimate(4.0 + i, 3.9 + i, 4.1 + i) for i in range(n_rows)],
        }
    )
    options = {"units": {"loss": "nats/token"}, "best": {"loss": "min"}, **more}
    return DataTable(frame=frame, caption="Losses, 95 % intervals", **options)


def panel(n, titles=True):
    figure, axes = panels(n)
    for i, axis in enumerate(axes):
        axis.plot([1, 2], [1 + i, 2 + 3 * i])
        axis.set(xlabel="x", ylabel="loss", ylim=(1 + i, 2 + 3 * i))
        if titles:
            axis.set_title(f"budget {i}")
    keep_outer_labels(axes)
    return figure


def one_panel():
    return panel(1)


def three_panels():
    return panel(3)


def no_panel():
    raise ValueError("no runs")


def test_a_table_has_booktabs_rules_units_bold_and_escaped_text():
    assert tabular(table()) == "\n".join(
        [
            r"\begin{tabular}{lr}",
            r"\toprule",
            r"model & loss \\",
            r" & nats/token \\",
            r"\midrule",
            r"peer\_0 \& 5\% & \textbf{4.00 (3.90 to 4.10)} \\",
            r"peer\_1 \& 5\% & 5.00 (4.90 to 5.10) \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def test_a_long_table_goes_over_pages_and_a_wide_one_is_turned():
    assert tabular(table(LONG)).startswith(r"\begin{tabular}")
    assert tabular(table(LONG + 1)).startswith(r"\begin{longtable}{lr}")
    frame = pd.DataFrame({f"c{i}": range(LONG + 1) for i in range(15)})
    assert tabular(DataTable(frame=frame, caption="")).startswith(r"\begin{landscape}")


def test_nothing_of_a_text_is_a_command_of_latex():
    assert escape("a\\input{b}\n$x^2$ ~ 日") == (
        r"a\textbackslash{}input\{b\} \$x\textasciicircum{}2\$ \textasciitilde{} ?"
    )


def test_a_figure_is_as_wide_as_a_column_or_two_and_all_its_text_is_of_one_size():
    with figures.style(columns=Columns(one=3.0, two=6.2, font=7.5)):
        for n, width in ((1, 3.0), (2, 6.2), (3, 6.2), (5, 6.2)):
            figure = panel(n)
            assert figure.get_figwidth() == width
            sizes = {t.get_fontsize() for t in figure.findobj(Words) if t.get_text()}
            assert sizes == {7.5}
    with figures.style():
        assert panel(1).get_figwidth() == pytest.approx(3.3)


def test_panels_of_one_quantity_have_one_scale_in_a_paper_alone():
    with figures.style(columns=COLUMNS):
        figure, axes = panels(4, 2)
        for axis, name, ends in zip(
            axes, ("loss", "", "size", ""), ((1, 2), (3, 9), (5, 6), (0, 7)), strict=True
        ):
            axis.set(ylabel=name, ylim=ends)
        one_scale(axes)
        assert [axis.get_ylim() for axis in axes] == [(1, 9), (1, 9), (0, 7), (0, 7)]
    with figures.style():
        figure = three_panels()
        before = [axis.get_ylim() for axis in figure.axes]
        one_scale(figure.axes)
        assert [axis.get_ylim() for axis in figure.axes] == before


def test_fourteen_models_have_fourteen_colours():
    names = [*figures.MODEL_COLOURS, *(f"layer {i}" for i in range(8))]
    with figures.style():
        colours = np.array([look.colour for look in looks(names).values()])
    apart = np.abs(colours[:, None] - colours).max(axis=-1)
    assert len(names) == 14
    assert apart[~np.eye(14, dtype=bool)].min() > 0.05


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    plots = [
        Plot(name="one", caption="One & only", make=one_panel),
        Plot(name="three", caption="Three", make=three_panels),
        Plot(name="lost", caption="Never drawn", make=no_panel),
    ]
    drafts = [Draft(title="Answer 1", parts=[table(), *plots, table(LONG + 1)])]
    write_paper(drafts, folder, ["dense"], "python -m analysis report X --paper")
    return folder


def test_the_document_shows_each_table_and_figure_that_there_is(written):
    names = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    tables = ["tables/answer_1_1.tex", "tables/answer_1_2.tex"]
    assert names == ["figures/one.pdf", "figures/three.pdf", "paper.tex", *tables]
    text = (written / "paper.tex").read_text()
    shown = re.findall(r"\\(?:input|includegraphics)\{(.*?)\}", text)
    assert sorted(shown) == sorted({*names} - {"paper.tex"})
    assert r"One \& only." in text
    widths = [_width(written / "figures" / f"{name}.pdf") for name in ("one", "three")]
    assert widths == pytest.approx([72 * COLUMNS.one, 72 * COLUMNS.two], abs=1e-3)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_takes_it(written):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ended = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Overfull" not in ended.stdout


def _width(path):
    """In points, of a PDF of one page."""
    left, _, right, _ = map(float, re.search(rb"/MediaBox \[(.*?)\]", path.read_bytes())[1].split())
    return right - left
