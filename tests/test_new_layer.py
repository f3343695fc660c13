"""How-to of a new layer, to the letter: one file and one yaml, and every command knows it."""

import json
import subprocess
import sys

import pytest
import torch

import experiments.models.ffn
from experiments import export, generate
from tests.conftest import REPOSITORY, TINY
from tests.extending import files, follow, section

SMALL = ("size=2", "trunk.ffn_blocks=[0]", *TINY)
FROM_RUN = tuple(  # what the weights say themselves is left out
    word for word in SMALL if not word.startswith(("size", "ladder.d_", "ladder.vocab"))
)


def snippets():
    return list(files(section("A layer")).values())


@pytest.fixture
def commands(run, tmp_path, monkeypatch, capsys):
    """call(command, ...): its exit code and what it prints, with the layer in its two places."""
    code, yaml = snippets()
    (tmp_path / "ffn").mkdir()
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "ffn" / "mine.py").write_text(code)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(yaml)
    places = [*experiments.models.ffn.__path__, str(tmp_path / "ffn")]
    monkeypatch.setattr(experiments.models.ffn, "__path__", places)
    monkeypatch.delitem(sys.modules, "experiments.models.ffn.mine", raising=False)

    def call(command, *arguments):
        if command == "run":
            code, out, err = run(*arguments, f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
            return code, out + err
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as end:
            code = end.code
        return code, "".join(capsys.readouterr())

    return call


def folder_of(tmp_path, sweep):
    (record,) = (tmp_path / "results" / sweep).glob("*/record.json")
    assert json.loads(record.read_text())["status"] == "done"
    return record.parent


@pytest.mark.usefixtures("hub_modules")
def test_it_trains_generates_leaves_and_can_t_grow(commands, tmp_path):
    code, said = commands("run", "model=mine", "budget=2e9", "sweep=mine", *SMALL)
    assert code == 0, said
    mine = folder_of(tmp_path, "mine")
    code, said = commands(generate, mine, "the cat", "max_tokens=4")
    assert (code, said[:7]) == (0, "the cat")

    code, said = commands(export, mine, tmp_path / "out")
    assert code == 0, said
    assert "ExpertsForCausalLM, with its code" in said
    assert '"""Two matrices around a squared ReLU."""' in (tmp_path / "out/mine.py").read_text()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True
    )
    assert type(theirs.blocks[0].ffn).__module__.endswith(".mine")
    assert theirs(torch.arange(8)[None]).logits.isfinite().all()

    grow = ("init=run", f"init.path={mine}", "init.how=bias", "init.train=all", "n_experts=64")
    code, said = commands("run", *grow, "budget=2e9", *FROM_RUN)
    assert code == 2
    assert "Mine has no experts that could become more" in said


def test_it_stands_beside_a_trained_layer(commands, tmp_path):
    code, said = commands("run", "model=dense", "budget=2e9", "sweep=dense", *SMALL)
    assert code == 0, said
    start = ("init=run", f"init.path={folder_of(tmp_path, 'dense')}", "model=mine", *FROM_RUN)
    code, said = commands("run", *start, "budget=2e9", "sweep=both")
    assert code == 0, said
    folder_of(tmp_path, "both")
    code, said = commands("run", *start, "init.how=copies", "budget=2e9")
    assert code == 2
    assert "init.how=copies with Mine: only PEER's experts are single neurons" in said


def test_it_is_written_as_the_house_is():
    place = ("--stdin-filename", "src/experiments/models/ffn/mine.py", "-")
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *place],
            input=snippets()[0], cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.night
def test_the_tests_of_every_layer_pass_for_it(tmp_path):
    follow("A layer", tmp_path)
