"""A command loads what it uses: how many modules of ours each has loaded, in a process."""

import subprocess
import sys

import pytest

from analysis.parser import list_commands

OURS = "len([name for name in sys.modules if name.split('.')[0] in ('analysis', 'experiments')])"
PARSE = """
from analysis.parser import make_parser
try:
    make_parser("").parse_args({words})
except SystemExit:
    pass
"""
# Each command in a child of a process that has loaded what is not ours
COMMANDS = f"""
import os, sys
import matplotlib.pyplot, pandas, scipy.optimize, scipy.stats, seaborn
for command in {list(list_commands())}:
    if not os.fork():
        words = [command, "runs.csv"]
        {PARSE.format(words="words").replace(chr(10), chr(10) + " " * 8)}
        print(command, {OURS}, flush=True)
        os._exit(0)
    os.wait()
"""
# At most so many: what was loaded when this was written, and a tenth more (another command: 200)
MOST = {
    "compare": 219,
    "curves": 114,
    "experts": 138,
    "flatness": 122,
    "isoflop": 128,
    "parametric": 180,
    "plan": 166,
    "rates": 138,
    "report": 206,
    "surfaces": 162,
}


def printed(code):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "most"), [("import analysis", 1), (PARSE.format(words=["--help"]), 8)]
)
def test_what_computes_nothing_loads_nothing(code, most):
    count, pandas = printed(f"import sys\n{code}\nprint({OURS}, 'pandas' in sys.modules)")[
        -1
    ].split()
    assert int(count) <= most
    assert pandas == "False"


def test_a_command_loads_what_it_uses():
    loaded = {name: int(count) for name, count in map(str.split, printed(COMMANDS))}
    assert list(loaded) == list(list_commands())
    for name, count in loaded.items():
        assert count <= MOST.get(name, 200), f"{name} loads {count} modules of ours"
