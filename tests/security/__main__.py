"""Attacks by strangers' folders on the real commands: `make audit-security`; docs/trust.md.

A line an attack: what came of it. Exit code 1 if anything of a stranger's ran, a command wrote or
removed anything beside the results, hung or ended with a traceback, or a control character reached
the terminal.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.system.plain_text import printable
from experiments.system.text_table import aligned
from tests.conftest import WORDS
from tests.init.test_gguf import vocabulary, write
from tests.security.app_attacks import APP_ATTACKS
from tests.security.attacks import ATTACKS, FORMULA, MARKUP, START, Place, environment
from tests.security.file_attacks import FILE_ATTACKS
from tests.security.gguf_flips import flips, summary
from tests.security.strangers import own_folder, state_of

_SECONDS = 300.0  # of one command, on a busy machine
_FLIPS = 400
_MOST = 20_000  # characters that a command prints
_BAD = ("RAN", "WROTE", "HUNG", "TRACEBACK", "RAW", "MISREAD", "ENDLESS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="attacks whose name has these words")
    parser.add_argument("--trust", default="", help="a control: what runs has to be seen then")
    parser.add_argument("--gguf", type=Path, help="a copy of it is flipped too")
    options = parser.parse_args(arguments)
    rows = [("attack", "outcome", "")]
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        here = place(Path(folder))
        for name, prepare in (ATTACKS | FILE_ATTACKS | APP_ATTACKS).items():
            if options.only in name:
                rows.append((name, *outcome(prepare, here, options.trust)))
                print(f"{len(rows) - 1}: {rows[-1][0]}: {rows[-1][1]}", file=sys.stderr, flush=True)
        write(here.root / "tiny.gguf", **vocabulary())
        for path in filter(None, (here.root / "tiny.gguf", options.gguf)):
            if options.only not in f"flipped bits in {path.name}":
                continue
            (here.root / "flipped.gguf").write_bytes(path.read_bytes())
            outcomes = list(flips(here.root / "flipped.gguf", _FLIPS))
            bad = any(o.kind == "misread" for o in outcomes)
            kind = "MISREAD" if bad else "HUNG" if max(o.seconds for o in outcomes) > 10 else "seen"
            rows.append((f"{_FLIPS} flipped bits in {path.name}", kind, summary(outcomes)))
    print("\n".join(aligned(rows, n_left=3)))
    return int(any(row[1] in _BAD for row in rows))


def place(root: Path) -> Place:
    """A folder with text and a run that was trained on it by the command."""
    (root / "texts").mkdir()
    lines = [
        " ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(40)) + " .\n" for i in range(400)
    ]
    (root / "texts" / "a.txt").write_text("\n".join(lines))
    small = ("size=1", "ladder.d_per_layer=16", "ladder.d_head=16", "ladder.vocab_size=270",
             "data.n_eval_tokens=320", "trainer.n_threads=1", "sweep=honest")  # fmt: skip
    done = _call(["experiments.run", *START[:-1], *small], root)
    (record,) = (root / "results" / "honest").glob("*/record.json") or [None]
    assert record is not None, done.stderr
    return Place(root, record.parent)


def _call(words: Sequence[str], root: Path, trust: str = "") -> subprocess.CompletedProcess[bytes]:
    begin = [] if words[0].endswith(".py") else ["-m"]
    return subprocess.run(
        [sys.executable, *begin, *words],
        cwd=root,
        env=environment(root, trust),
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )


def outcome(prepare: Callable[[Place], list[str]], here: Place, trust: str = "") -> tuple[str, str]:
    """A word, and the command's last line."""
    here.ran.unlink(missing_ok=True)
    shutil.rmtree(here.thesis, ignore_errors=True)
    own_folder(here.thesis)
    words = prepare(here)
    before = state_of(here.thesis)
    assert not here.ran.exists(), "the preparation ran it"
    try:
        done = _call(words, here.root, trust)
    except subprocess.TimeoutExpired:
        return "HUNG", f"{_SECONDS:.0f} s"
    finally:
        (here.root / "bin" / "sbatch").unlink(missing_ok=True)
    said = (done.stdout + done.stderr).decode(errors="replace")
    last = (said.strip().splitlines() or [""])[-1][:120]
    if here.ran.exists():
        return "RAN", last
    if (after := state_of(here.thesis)) != before:
        changed = sorted(name for name in before if after.get(name) != before[name])
        return "WROTE", f"{len(changed)} names of the reader's folder: {', '.join(changed)}"[:120]
    if "\x1b" in said or "\x07" in said:
        return "RAW", printable(last)
    if "Traceback" in said:
        return "TRACEBACK", last
    if len(said) > _MOST:
        return "ENDLESS", f"{len(said)} characters"
    if done.returncode == 0:
        return (
            ("RAN", "as a formula or markup") if _is_live(here.root / "results") else ("read", last)
        )
    return f"refused, {done.returncode}", last


def _is_live(results: Path) -> bool:
    """Whether a table or page that was made of a stranger's text would run it."""
    made = [path for path in results.rglob("*") if path.is_file()]  # and no pipe, which waits
    tables = "".join(path.read_text() for path in made if path.suffix == ".csv")
    pages = "".join(path.read_text() for path in made if path.suffix == ".html")
    return f",{FORMULA[:5]}" in tables or f'"{FORMULA[:5]}' in tables or MARKUP in pages


if __name__ == "__main__":
    raise SystemExit(main())
