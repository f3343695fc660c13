"""A report's table as LaTeX, with the rules of booktabs."""

from collections.abc import Sequence

from analysis.report.page.blocks import DataTable
from analysis.report.page.cells import Cell, body_rows, head_cells

LONG = 40  # rows; a longer table goes over pages
_WIDE = 14  # columns; a wider long table is turned
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "–": "--", "—": "---", "×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "√": r"$\surd$",
    "≈": r"$\approx$", "≤": r"$\le$", "≥": r"$\ge$", "∞": r"$\infty$", "²": r"$^2$",
    "…": r"\dots{}", "·": r"$\cdot$", "“": "``", "”": "''", "’": "'",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it. Any other character beyond ASCII is a question mark."""
    return "".join(_SPECIAL.get(c, c if c.isascii() else "?") for c in " ".join(text.split()))


def tabular(table: DataTable) -> str:
    """Its rows between booktabs' rules: a tabular, or a longtable of more rows than LONG.

    Text is to the left and numbers to the right, the best of a column in bold. Units stand below
    the names of columns.
    """
    heads = head_cells(table)
    rows = body_rows(table)
    spec = "".join("r" if head.is_number else "l" for head in heads)
    lines = [_row([escape(head.name.replace("_", " ")) for head in heads])]
    if any(head.unit for head in heads):
        lines.append(_row([escape(head.unit) for head in heads]))
    body = [_row([_cell(cell) for cell in row]) for row in rows]
    if len(rows) <= LONG:
        inner = [r"\toprule", *lines, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{spec}}}", *inner, r"\end{tabular}", ""])
    inner = [r"\toprule", *lines, r"\midrule", r"\endhead", r"\bottomrule", r"\endlastfoot", *body]
    long = [rf"\begin{{longtable}}{{{spec}}}", *inner, r"\end{longtable}"]
    if len(heads) > _WIDE:
        long = [r"\begin{landscape}", *long, r"\end{landscape}"]
    return "\n".join([*long, ""])


def is_long(table: DataTable) -> bool:
    return len(table.frame) > LONG


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return rf"\textbf{{{text}}}" if cell.is_best else text
