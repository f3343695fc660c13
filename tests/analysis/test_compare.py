"""One command of comparisons: which question it takes, and what each refuses."""

import json

import pytest

from analysis.__main__ import main
from analysis.commands.compare import COMMAND
from analysis.options import check_options
from analysis.parser import make_parser
from analysis.questions import find_questions
from tests.analysis.test_adapters import three, written
from tests.analysis.test_bad_arguments import table
from tests.conftest import REPOSITORY
from tests.extending import follow

RESULTS = REPOSITORY / "results"
QUESTIONS = find_questions(COMMAND.questions)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    written(folder, three())
    runs = table()
    falls = runs.assign(loss=runs["loss"] - 0.1 * runs["budget"].rank(method="dense"))
    falls.to_csv(folder / "seeds.csv", index=False)
    falls[falls["seed"] == 0].to_csv(folder / "one_seed.csv", index=False)
    falls.rename(columns={"seed": "trial"}).to_csv(folder / "foreign.csv", index=False)
    falls[falls["budget"] == 1e12].drop(columns="seed").to_csv(folder / "neither.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("path", "words", "question"),
    [
        (".", [], "adapters"),
        (RESULTS / "lifelong" / "facts", [], "forgetting"),
        (RESULTS / "growth" / "square", [], "growth"),
        (RESULTS / "retrofit" / "hpo", [], "adaptation"),
        ("seeds.csv", [], "differences"),
        ("one_seed.csv", [], "multiplier"),
        ("foreign.csv", ["--table", "column.seed=trial"], "differences"),
        ("foreign.csv", [], "multiplier"),
        ("seeds.csv", ["--slopes", "one"], "multiplier"),
        ("seeds.csv", ["--question", "contrast"], "contrast"),
        ("seeds.csv", ["--curvature", "one"], "contrast"),
    ],
)
def test_the_question_is_found_from_options_and_runs(here, path, words, question):
    options = make_parser("").parse_args(["compare", str(here / path), *words])
    check_options(options)
    assert options.chosen is QUESTIONS[question]
    assert options.command == question
    said = f"question: {question}, {options.chosen.help}"
    assert options.found is None if "--question" in words else options.found.startswith(said)


def test_runs_for_no_question_are_told_all(here, capsys):
    assert main(["compare", str(here / "neither.csv")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "neither.csv is for no question by itself; give --question" in error
    for name, question in QUESTIONS.items():
        assert f"{name}: {question.help}" in error


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_refuses_the_options_of_others(here, capsys, question):
    others = frozenset().union(*COMMAND.known.values()) - COMMAND.known[question]
    assert others
    for name in sorted(others):
        parser = make_parser("")
        options = parser.parse_args(["compare", str(here), "--question", question])
        setattr(options, name, ["x"])
        with pytest.raises(ValueError, match="; leave it out") as refused:
            options.chosen.choose(options)
        takers = [n for n, known in COMMAND.known.items() if name in known]
        said = f"--{name.replace('_', '-')} is for {' and '.join(takers)}, and not for {question}"
        assert str(refused.value).startswith(said)


def test_the_result_has_one_form(here, tmp_path, capsys):
    for words in (["seeds.csv"], ["seeds.csv", "--slopes", "one"], ["."]):
        words = ["compare", str(here / words[0]), *words[1:], "--out", str(tmp_path)]
        assert main([*words, "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        assert {"question", "table", "level", "status", "warnings"} <= set(values)
        name = values["question"]
        assert json.loads((tmp_path / f"{name}.json").read_text()) == values
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(values["table"])
        assert lines[0].split(",")[0] == next(iter(values["table"][0]))


def test_a_question_is_a_file_that_is_found_and_has_a_readable_help(capsys):
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["compare", "--help"])
    text = capsys.readouterr().out
    for name, question in QUESTIONS.items():
        assert f"\n{name}:\n" in text
        assert question.help in " ".join(text.split())


def test_the_how_to_of_a_question_works(tmp_path):
    said = follow("A question of compare", tmp_path)
    assert "\naverage:\n  mean losses of all runs of a series\n" in said
    assert "\nseries,runs,loss,lower,upper\n" in said
    assert '"question": "average"' in said
