"""What several cores fit and draw is what one does, and no process outlives the command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from analysis.figures.plot import Plot
from analysis.processes import Begun, mapping
from analysis.report.gallery import Draft, draw_all
from analysis.report.page.blocks import Text

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")

# Asked for its functions by a line each. It prints what one returns, or its error.
CHILD = """
import os, signal, sys, time, traceback
from functools import partial
from pathlib import Path
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from analysis.figures.layout import legends_below, panels, swatch
from analysis.figures.plot import Plot
from analysis.processes import Begun, mapping
from analysis.report.gallery import Draft, draw_all

def draw(n):
    (folder / f"{n}.pid").write_text(str(os.getpid()))
    figure, axes = panels(n)
    for axis in axes:
        axis.plot([1, 2, 3], [n, 1, n], label=f"$10^{n}$")
        axis.set_xlabel("x")
    legends_below(figure, [swatch(f"{n} panels", "#336699")])
    return figure

def fail(error):
    raise error

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def drafts(*makes):
    return [Draft(title="t", parts=[Plot(name=f"p{i}", caption="", make=make)])
            for i, make in enumerate(makes)]

def drawn(name, *makes):
    global folder
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    said = []
    sections = draw_all(drafts(*makes), folder, ["peer"], said.append)
    assert said == [f"drawing: p{i}" for i in range(len(makes))]
    pids = {path.read_text() for path in folder.glob("*.pid")}
    return [s.blocks[0] for s in sections], [p.read_bytes() for p in folder.glob("*.png")], pids

def error_of(*makes):
    try:
        drawn(f"error{len(list(Path(sys.argv[1]).iterdir()))}", *makes)
    except Exception as error:
        return error

def on_all_cores_and_on_one():
    makes = [partial(draw, n) for n in (1, 2, 3, 4)]
    blocks, pngs, pids = drawn("all", *makes)
    assert str(os.getpid()) not in pids and len(pids) > 1, pids
    unknown = error_of(makes[0], partial(fail, KeyError("x")))
    assert type(unknown) is KeyError and unknown.__notes__ == ["while drawing the figure p1"]
    killed = error_of(makes[0], kill, makes[1])
    assert type(killed) is RuntimeError and "was killed" in str(killed), killed

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    again, same, pids = drawn("one", *makes)
    os.sched_setaffinity(0, cores)
    assert pids == {str(os.getpid())}
    assert [b.svg for b in again] == [b.svg for b in blocks] and again == blocks
    assert len(pngs) == 4 and sorted(same) == sorted(pngs)

def fit(n):
    if n == 2:
        raise ValueError("no fit of 2")
    return n, os.getpid()

def begun_fits_out_of_order():
    with mapping(4) as each:
        begun = Begun(each, {str(n): partial(fit, n) for n in range(4)})
        found = {n: begun(str(n))() for n in (3, 0, 1, 3)}
        try:
            begun("2")()
        except ValueError as error:
            said = str(error)
    assert [n for n, _ in found.values()] == [3, 0, 1], found
    assert os.getpid() not in [pid for _, pid in found.values()]
    return said

def work(_):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: print may write the end apart
    while True:
        time.sleep(0.1)

def command_without_end():
    command = os.fork()
    if command:
        return f"command {command}"
    try:
        with mapping(2) as each:
            list(each(work, range(2)))
    finally:
        os._exit(1)

for line in sys.stdin:
    try:
        print(repr(globals()[line.strip()]()), flush=True)
    except BaseException:
        print(repr(traceback.format_exc()), flush=True)
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """ask(NAME, n): n lines after a function is called in a process of its own, which takes seconds
    to import the package, once. Pytest's have threads, with which it would not fork.
    """
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    command = [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("drawn"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)

    def asked(name, n=1):
        print(name, file=child.stdin, flush=True)
        return [child.stdout.readline().strip() for _ in range(n)]

    try:
        yield asked
    finally:
        child.kill()
        child.communicate()


def test_other_processes_draw_the_same_and_their_errors_name_the_figure(ask):
    assert ask("on_all_cores_and_on_one") == ["None"]


def test_begun_fits_are_each_under_its_name_or_its_error(ask):
    assert ask("begun_fits_out_of_order") == ["'no fit of 2'"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_if_the_command_is_killed_its_processes_end(ask, how):
    said = sorted(line.strip("'") for line in ask("command_without_end", 3))
    *pids, command = (int(line.removeprefix("command ")) for line in said)
    try:
        assert all(map(runs, pids))
        os.kill(command, how)
        until = time.monotonic() + 60
        while any(map(runs, pids)):
            assert time.monotonic() < until, "a process outlives the command"
            time.sleep(0.05)
    finally:
        for pid in filter(runs, (command, *pids)):
            os.kill(pid, signal.SIGKILL)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_begun_fits_of_one_process_are_made_as_they_are_asked_for():
    made = []
    begun = Begun(map, {name: lambda name=name: made.append(name) or name for name in "abc"})
    assert not made
    assert begun("b")() == "b"
    assert made == ["a", "b"]
    assert [begun(name)() for name in "abc"] == ["a", "b", "c"]
    assert made == ["a", "b", "c"]


def test_beside_another_thread_nothing_is_forked():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with mapping(8) as each:
            assert list(each(lambda _: os.getpid(), range(8))) == [os.getpid()] * 8
    finally:
        over.set()
        thread.join()


def test_what_a_figure_lacks_is_said_in_its_place(tmp_path):
    def lacking():
        raise ValueError("nothing varies")

    plot = Plot(name="usage", caption="", make=lacking)
    (section,) = draw_all([Draft(title="Usage", parts=[Text(text="a"), plot])], tmp_path, [])
    assert section.title == "Usage"
    assert section.blocks == [Text(text="a"), Text(text="No figure of usage: nothing varies.")]
    assert not list(tmp_path.iterdir())
