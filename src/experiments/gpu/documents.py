"""Table of docs/performance.md: the numbers of each card's committed report, or none yet.

`python -m experiments.gpu.documents` rewrites it; a test holds the document to the reports.
"""

from pathlib import Path

from experiments.gpu.report import JSON_NAME, TEXT_NAME, Report
from experiments.system.command import Parser, exit_codes

DOCUMENT = Path("docs/performance.md")
REPORTS = Path("results/gpu")
BEGIN, END = MARKS = "<!-- reports of cards -->", "<!-- end of reports -->"
NONE = "No card has run it yet: everything said of GPUs here is arithmetic, or a plan."


def section(reports: Path) -> list[str]:
    """Lines between BEGIN and END: a table a card; a report of toy sizes is none."""
    lines: list[str] = []
    for path in sorted(reports.glob(f"*/{JSON_NAME}")):
        report = Report(path.parent)
        about = report.content["about"]
        if about.get("toy"):
            continue
        link = f"../{REPORTS.as_posix()}/{path.parent.name}/{TEXT_NAME}"
        versions = f"torch {about['torch']}, commit {str(about['commit'])[:7]}"
        lines += [f"**{about['card']}** ({versions}; [all numbers]({link})):", ""]
        lines += [*report.table(), ""]
    return lines[:-1] or [NONE]


def replaced(text: str, lines: list[str], marks: tuple[str, str] = MARKS) -> str:
    """Document with these lines between its marks. Raises ValueError without them."""
    head, begin, rest = text.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the document must have the marks {marks[0]} and {marks[1]}; add them")
    return "\n".join([f"{head}{begin}", "", *lines, "", f"{end}{tail}"])


def main() -> None:
    """In the repository's root."""
    Parser(prog="python -m experiments.gpu.documents", description=__doc__).parse_args()
    with exit_codes():
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replaced(text, section(REPORTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
