"""Commands as one: their usage is what is typed, and help waits for no library."""

import subprocess
import sys

from experiments.inspect import QUESTIONS
from experiments.system.modules import find_modules
from tests.conftest import REPOSITORY

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
    files = (REPOSITORY / "src" / "experiments").glob("*.py")
    names = {path.stem for path in files if "\ndef main(" in path.read_text()} - HYDRAS
    questions = {f"inspect {found.name}" for found in find_modules(QUESTIONS)}
    assert questions == {"inspect ablate", "inspect patch"}
    names |= questions
    code = HELP.format(names=sorted(names))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usages = [line for line in done.stdout.splitlines() if line.startswith("usage: ")]
    ends = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("::")]
    assert len(ends) == len(names)
    for usage, (name, slow) in zip(usages, (end.split(";") for end in ends), strict=True):
        assert usage.startswith(f"usage: python -m experiments.{name} ")
        assert not slow, f"{name} --help imports {slow}"
