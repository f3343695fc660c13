"""Commands as one: their usage is what is typed, and help waits for no library."""

from experiments.inspect import QUESTIONS
from experiments.system.modules import find_modules
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
EARLY = """
import sys
from importlib import import_module

for command, *sys.argv[1:] in {words}:
    try:
        import_module(f"experiments.{{command}}").main()
    except SystemExit as end:
        print(end.code)
print(sorted({{"torch", "lightning", "transformers"}} & set(sys.modules)))
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


def test_neither_hydras_help_nor_a_refused_sweep_imports_torch(tmp_path):
    code = (
        "import sys\nfrom experiments.run import main\nsys.argv[0] = 'run'\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    for word, text in (("--help", "hydra/launcher, with -m"), ("hydra.sweeper.n_trials=2", "-m")):
        done = python("-c", code, word, cwd=tmp_path)
        assert text in done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("False"), word
