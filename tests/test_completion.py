"""One word has all commands, and a shell completes what is typed after it."""

import sys

import pytest

from experiments.__main__ import commands, main


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*words):
        """Output of `experiments WORDS...`, and its exit code."""
        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        code = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        return (*capsys.readouterr(), code)

    return run


@pytest.fixture
def replies(typed, monkeypatch):
    def ask(line):
        monkeypatch.setenv("COMP_LINE", f"{line} and what is behind the cursor")
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        return typed("completion", "replies")[0].splitlines()

    return ask


def test_without_a_word_all_commands_are_listed(typed):
    out, _, code = typed()
    assert code is None
    assert out.startswith("usage: experiments COMMAND ...")
    for name in commands():
        assert f"\n  {name} " in out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("statsu", "error: statsu is no command; did you mean status?\n"),
        ("xyzzy", "error: xyzzy is no command; there are bench, cancel, "),
    ],
)
def test_a_command_that_there_is_not_is_a_line(typed, word, message):
    out, error, code = typed(word, "--all")
    assert (out, code) == ("", 2)
    assert error.startswith(message)


def test_a_command_is_called_as_it_was_typed(typed):
    out, _, code = typed("status", "--help")
    assert out.startswith("usage: experiments status [-h]")
    assert not code


def test_words_of_each_place_are_completed(replies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "group/two"):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        (folder / "manifest.jsonl").touch()
    assert replies("experiments st") == ["status "]
    assert replies("experiments status --w") == ["--watch "]
    assert replies("experiments status ") == ["group/two ", "one "]
    assert replies("experiments analysis iso") == ["isoflop "]
    assert replies("experiments xyzzy ") == []


def test_groups_of_a_run_are_completed_as_hydra_does(replies):
    assert replies("experiments run -m model=pe") == ["model=peer", "model=peer_narrow"]


def test_the_shells_read_it(typed):
    for shell in ("bash", "zsh"):
        out, _, _ = typed("completion", shell)
        assert "complete -o nospace -o default -F _experiments experiments" in out
    assert typed("completion", "fish")[2] == 2
