"""Each command in a document or above an experiment is parsed by the command itself, and stopped.

So a renamed option, key, choice, subcommand or target of make fails here. What runs for real has
tests of its own: the first hour's plans, README's plan, how-tos of rooms, numbers of the study.
"""

import contextlib
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from analysis.options import check_options
from analysis.parser import make_parser
from experiments.config.hydra_hints import normalized
from experiments.system import command
from tests.conftest import REPOSITORY

DOCUMENTS = [
    *(REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / "results" / "study" / f"{name}.md" for name in ("first", "pilots", "appendix")),
    *sorted((REPOSITORY / "conf" / "experiment").glob("*.yaml")),
]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
COMMAND = re.compile(r"python3? -m (experiments\.(?!gpu\.)\w+|analysis)(?![\w.])(.*)")
SHORT = re.compile(r"`… ([a-z]+)( [^`]*)?`")  # of the index: `… status NAME`
VARIABLE = re.compile(r"\$\(\([^)]*\)\)|\$\{?\w+\}?")
ELLIPSES = ("…", "...")  # in the place of words that the reader adds
# What a command looks for before it does its work. RUN, NAME and FOLDER are words as any other.
REAL = {
    "PATH": "results/study/isoflop",
    "SWEEP": "results/growth/square",
    "results/default": "results/lifelong/streams",
    "my_schedule.csv": "results/study/runs.csv",
}


def code(document: Path) -> list[str]:
    """Lines of code: of Markdown's blocks, and between backticks; comments of a yaml. A variable
    that a line sets is filled in, and any other is 4.
    """
    text = re.sub(r"\\\n\s*(?:# +)?", " ", document.read_text())
    while found := re.search(r'^( {4})?([A-Z]+)="(.*)"$', text, re.MULTILINE):
        name, value = found[2], found[3]
        text = text.replace(f'{name}="{value}"', value).replace(f"${name} ", f"{value} ")
    text = VARIABLE.sub("4", text)
    if document.suffix == ".yaml":
        return re.findall(r"^#   (.*)$", text, re.MULTILINE)
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.split("\n")]
    lines += re.findall(r"^ {4}(.*)$", rest, re.MULTILINE)
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", rest)]
    return lines + inline + [f"python -m experiments.{a}{b}" for a, b in SHORT.findall(rest)]


def commands(document: Path) -> list[list[str]]:
    """Words of each command line of ours, from its module on."""
    found = []
    for module, rest in (m.groups() for m in map(COMMAND.search, code(document)) if m):
        lexer = shlex.shlex(f"{module}{rest}", posix=True, punctuation_chars="|<>&;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
        ends = [i for i, word in enumerate(words) if set(word) <= set("|<>&;")]
        found.append(words[: ends[0]] if ends else words)
    return found


class Parsed(BaseException):
    """A command has parsed its words; nothing stops it on its way out."""


def parsed(module: str, words: list[str]) -> str | None:
    """Error of a command with these words; None if it would go to work by them."""
    program = importlib.import_module(module)

    def stop(call):
        def first(*args, **settings):
            options = call(*args, **settings)
            raise Parsed(options)

        return first

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program.__file__, *words])
        patch.setattr(command, "read_words", stop(command.read_words))
        if module == "experiments.bench":  # whose measurements have options of their own
            measurement = command_module(words[0])
            patch.setattr(measurement, "run", stop(lambda options: options))
        else:
            patch.setattr(command.Parser, "parse_args", stop(command.Parser.parse_args))
        try:
            program.main()
        except Parsed:
            return None
        except SystemExit as end:
            return f"exit code {end.code}"
    return "went to work"


def command_module(name: str):
    return importlib.import_module(
        "experiments.gpu.command" if name == "gpu" else f"experiments.benchmarks.{name}"
    )


def given(words: list[str]) -> list[str]:
    """Words as a reader types them: [--option VALUE] without its brackets, and no ellipsis."""
    optional = [word.removeprefix("[") if word.startswith("[--") else word for word in words]
    ends = [w[:-1] if w.count("]") > w.count("[") else w for w in optional]
    named = [REAL.get(word, word.removesuffix("...")) for word in ends]
    return [word for word in named if word and not any(each in word for each in ELLIPSES)]


def test_the_command_lines_of_documents_are_found():
    found = [tuple(words[:2]) for document in DOCUMENTS for words in commands(document)]
    assert len(found) > 250
    assert {("analysis", "report"), ("experiments.library", "make")} <= set(found)
    assert ("experiments.cancel", "NAME") in found
    assert ("experiments.run", "experiment=demo") in found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_takes_its_words(document, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for module, *typed in commands(document):
        words = given(typed)
        if module == "experiments.run" or not words:
            continue
        if module == "analysis":
            if len(words) > 1:
                check_options(make_parser("").parse_args(words))
            continue
        said = parsed(module, words)
        assert said is None, (module, *words, said, capsys.readouterr().err)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_run_in_a_document_composes(document, compose_raw):
    """With the first of each choice."""
    for module, *typed in commands(document):
        if module == "experiments.run":
            words = [word for word in given(typed) if "=" in word]
            firsts = []
            for override in OverridesParser.create().parse_overrides(normalized(words)):
                word = override.input_line or ""
                if override.is_sweep_override():
                    key = word.partition("=")[0]
                    word = f"{key}={next(override.sweep_string_iterator())}"
                firsts.append(word)
            compose_raw(*firsts)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_and_its_variables_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for line in code(document):
        if typed := re.match(r"(?:\$ )?make ([a-z-]+)((?: [A-Z_]+=\S*)*)", line):
            assert typed[1] in targets, line
            for name in re.findall(r"([A-Z_]+)=", typed[2]):
                assert re.search(rf"^{name} \?=|\$\({name}\)", MAKEFILE, re.MULTILINE), line


def test_a_renamed_option_key_or_subcommand_is_noticed(capsys):
    assert parsed("experiments.status", ["a", "--watching"]) == "exit code 2"
    assert parsed("experiments.evaluate", ["RUN", "evals=[wikitext2]"]) == "exit code 2"
    assert parsed("experiments.bench", ["layer", "--token", "3", "--tokenz", "3"]) == "exit code 2"
    assert parsed("experiments.library", ["mak", "FOLDER"]) == "exit code 2"
    assert parsed("experiments.status", ["a", "--watch"]) is None
    capsys.readouterr()
    with pytest.raises(SystemExit), contextlib.redirect_stderr(None):
        make_parser("").parse_args(["isoflop", "runs.csv", "--tabel", "a=b"])
