"""Commands as one: their usage is what is typed, and help waits for no library."""

import re

from experiments.__main__ import commands
from experiments.inspect import QUESTIONS
from experiments.sweep.planning import ELSEWHERE
from experiments.sweep.task import STOPPED
from experiments.system.command import BAD_INPUT, FAILED, INTERRUPTED
from experiments.system.modules import find_modules
from experiments.system.requeue import STALLED
from tests.conftest import REPOSITORY, SMALL_PEER, python

HELP = """
import sys
from contextlib import suppress
from importlib import import_module

for name in {names}:
    module, *question = name.split()
    sys.argv = [f"/somewhere/{{module}}.py", *question, "--help"]
    with suppress(SystemExit):
        import_module(f"experiments.{{module}}").main()
    slow = sorted({{"torch", "lightning", "transformers"}} & set(sys.modules))
    print(f":: {{name}};{{' '.join(slow)}}")
"""
HYDRAS = {"run"}  # whose help is conf/config.yaml's


def test_help_says_what_is_typed_and_imports_nothing_slow():
    files = (REPOSITORY / "src" / "experiments").glob("[!_]*.py")
    names = {path.stem for path in files if "\ndef main(" in path.read_text()} - HYDRAS
    questions = {f"inspect {found.name}" for found in find_modules(QUESTIONS)}
    assert questions == {"inspect ablate", "inspect patch"}
    names |= questions
    done = python("-c", HELP.format(names=sorted(names)))
    usages = [line for line in done.stdout.splitlines() if line.startswith("usage: ")]
    ends = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("::")]
    assert len(ends) == len(names)
    for usage, (name, slow) in zip(usages, (end.split(";") for end in ends), strict=True):
        assert usage.startswith(f"usage: python -m experiments.{name} ")
        assert not slow, f"{name} --help imports {slow}"


# with RUN a finished run and HERE a folder of files; the first has exit code 1 without [lm-eval]
REFUSED = [
    ("evaluate", "RUN tasks=[hellaswagg]", "error: tasks=[hellaswagg]: "),
    ("evaluate", "RUN hellaswagg", "2 are given"),
    ("evaluate", "RUN --tasks", "give tasks=..."),
    ("evaluate", "RUNx tasks=[cloze]", "is not a finished run"),
    ("evaluate", "RUN size=3", "size=3"),
    ("evaluate", "RUN", "error: "),
    ("export", "RUN HERE", "is not empty, and no earlier export"),
    ("export", "RUNx new", "is not a finished run"),
    ("generate", "RUNx The", "is not a finished run"),
    ("generate", "RUN text top_p=0.5", "give temperature=1 too"),
]
ENDINGS = """
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO

for name in {names}:
    for word in ("--help", "--no-such-option"):
        module = "analysis.__main__" if name == "analysis" else f"experiments.{{name}}"
        sys.argv = [f"{{name}}.py", word]
        said = StringIO()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(said):
                code = import_module(module).main()
        except SystemExit as end:
            code = end.code
        print(name, word, code or 0, len(said.getvalue().splitlines()))
"""
EARLY = """
import sys
from importlib import import_module

for command, *sys.argv[1:] in {words}:
    try:
        import_module(f"experiments.{{command}}").main()
    except SystemExit as end:
        print(end.code)
print(sorted({{"torch", "torch._dynamo", "lightning", "transformers"}} & set(sys.modules)))
"""


def test_what_is_wrong_is_refused_before_torch_is_imported(trained, tmp_path):
    (tmp_path / "mine.txt").touch()
    run = str(trained(*SMALL_PEER))
    words = [
        [command, *text.replace("RUN", run).replace("HERE", str(tmp_path)).split()]
        for command, text, _ in REFUSED
    ]
    done = python("-c", EARLY.format(words=words))
    *codes, imported = done.stdout.splitlines()
    assert (codes[1:], imported) == (["2"] * 9, "[]")
    for line, (_, _, message) in zip(done.stderr.splitlines(), REFUSED, strict=True):
        assert line.startswith("error: ")
        assert message in line


def test_what_generates_loads_no_trainer_and_no_compiler(trained):
    words = ["generate", str(trained(*SMALL_PEER)), "The ", "max_tokens=1"]
    assert python("-c", EARLY.format(words=[words])).stdout.splitlines()[-1] == "['torch']"


def test_exit_codes_are_those_of_the_page():
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
    of_all = {int(code) for code, of in rows if of == "all commands"}
    assert of_all == {0, FAILED, BAD_INPUT, INTERRUPTED}
    of_some = {int(code) for code, of in rows if of != "all commands"} - of_all
    assert of_some == {ELSEWHERE, STOPPED, STALLED}
    named = {name for _, of in rows for name in re.findall(r"`(\w+)", of)}
    assert named <= commands().keys()
    names = sorted(commands().keys() - HYDRAS)
    ends = [line.split() for line in python("-c", ENDINGS.format(names=names)).stdout.splitlines()]
    assert len(ends) == 2 * len(names)
    for name, word, code, n_lines in ends:
        wanted = ("0", "0") if word == "--help" else ("2", "1")
        assert (code, n_lines) == wanted, f"{name} {word}"


def test_neither_hydras_help_nor_a_refused_sweep_imports_torch(tmp_path):
    code = (
        "import sys\nfrom experiments.run import main\nsys.argv[0] = 'run'\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    for word, text in (("--help", "hydra/launcher, with -m"), ("hydra.sweeper.n_trials=2", "-m")):
        done = python("-c", code, word, cwd=tmp_path)
        assert text in done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("False"), word
