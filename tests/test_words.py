"""Private idioms stay out: a stranger has to guess what they mean (CONTRIBUTING, the glossary)."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# an idiom, and the plain word for it
IDIOMS = (
    (
        r"\b(?:not )?told (?:apart|from)\b|\bnot told\b",
        "significant; identifiable; distinguishable",
    ),
    (r"\bspeaks? (?:against|for)\b", "warning, reason"),
    (r"\bdoubt(?:s|ed|ful|fully)?\b", "warning; not certain"),
    (r"\bleaves? over\b|\bleft over\b", "residual, remainder"),
    (r"\bleaves? behind\b", "the files of"),
    (r"\bstands? in\b", "is in"),
    (r"\banew\b", "again"),
    (r"\bwhat else\b", "other, further"),
    (r"\bof equals\b", "ties go to"),
    (r"\bat hand\b", "available, these"),
    (r"\b(?:lay|lies?)\b(?! out)", "is, are, was"),
    (r"\bthat there (?:is|are)(?: not)?\b(?! an?\b)", "that exists, unknown"),
    (r"\bis there twice\b", "occurs twice"),
    (r"\bmend(?:s|ed)?\b", "correct, repair"),
    (r"\bfor ever\b", "without end"),
    (r"\bwithout a word\b", "silently, without a reason"),
    (r"\bsaid aloud\b|\bsaid outright\b", "given explicitly"),
    (r"\bhangs? on (?!to)", "depends on"),
)
SEARCHES = [
    (re.compile(idiom.replace(" ", r"[\s#]+"), re.IGNORECASE), plain) for idiom, plain in IDIOMS
]
# folders and files that are clean; a name joins the list when its text is
CLEAN = (
    "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md",
    "analysis", "conf", "docs", "sbatch", "src", "tests",
)  # fmt: skip
# tests/study quotes the study's records; this file quotes all of them
NOT_YET = ("tests/study/", "tests/test_words.py")
TEXT = (".md", ".py", ".yaml", ".sh", ".cpp", ".h", ".html", ".js", ".ipynb")


def _files(*names):
    listed = subprocess.run(
        ["git", "ls-files", "--", *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a checkout of git")
    return [name for name in listed.stdout.splitlines() if not name.startswith(NOT_YET)]


def _prose(path):
    """Text; of Markdown without `code`, whose names are those of their time."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "``", text) if path.suffix == ".md" else text


def _findings(text):
    """(line, words, plain words) of each idiom; a text's lines are joined to find broken ones."""
    for pattern, plain in SEARCHES:
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match[0], plain


def _crowded(text):
    """Sentences of Markdown, outside of tables and code, with more than one semicolon."""
    text = re.sub(r"```.*?```|^    .*?$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-|#])", text):
        if not paragraph.lstrip().startswith("|"):
            sentences = re.split(r"(?<=[.:!?)])\s+(?=[A-Z*\[])", " ".join(paragraph.split()))
            yield from (sentence for sentence in sentences if sentence.count(";") > 1)


def test_the_count_of_semicolons_is_of_sentences():
    text = "One; two.\n- Three; four; five. Six; seven\n\n    a; b; c\n| a; b; c |\n"
    assert list(_crowded(text)) == ["- Three; four; five."]


def test_a_sentence_has_at_most_one_semicolon():
    names = [name for name in _files("README.md", "CONTRIBUTING.md", "docs") if name[-3:] == ".md"]
    wrong = [f"{name}: {found}" for name in names for found in _crowded(_prose(ROOT / name))]
    assert not wrong, "\n".join(wrong)


def test_the_search_finds_an_idiom_also_across_lines():
    found = _findings(
        "one\n# The exponent is not told\n    # from 0.\nNo doubt.\nThe fold is untold."
    )
    assert [(line, words.split()) for line, words, _ in found] == [
        (2, ["not", "told", "#", "from"]),
        (4, ["doubt"]),
    ]


def test_a_docstring_begins_with_no_article():
    begun = re.compile(r'^ *"""The ', re.MULTILINE)
    names = [name for name in _files("src", "analysis") if name.endswith(".py")]
    wrong = [name for name in names if begun.search((ROOT / name).read_text(encoding="utf-8"))]
    assert not wrong, wrong


def test_plain_words():
    wrong = []
    for name in _files(*CLEAN):
        path = ROOT / name
        if path.suffix in TEXT or path.name == "Makefile":
            text = _prose(path)
            wrong += [
                f"{name}:{line}: {' '.join(words.split())!r}; say: {plain}"
                for line, words, plain in _findings(text)
            ]
    assert not wrong, "\n".join(wrong)
