"""All commands by one word: `experiments run model=peer`, as `python -m experiments.run`."""

import difflib
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from experiments.system.command import BAD_INPUT
from experiments.system.modules import find_modules
from experiments.system.plain_text import printable, shortened
from experiments.system.version import version_line

PROGRAM = "experiments"
_ANALYSIS = "Fits a table of runs, and draws it: `python -m analysis COMMAND PATH`"


def commands() -> Mapping[str, str]:
    """Each command and what it does, from the files beside this one, which are not imported."""
    own = {module.name: module.about for module in find_modules(Path(__file__).parent)}
    return {**own, "analysis": _ANALYSIS}


def main() -> None:
    """Exit codes are the command's: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    known, (name, *words) = commands(), (sys.argv[1:] or ["--help"])
    if name in ("-h", "--help"):
        print(_usage(known))
    elif name == "--version":
        print(version_line())
    elif name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        print(f"error: {printable(shortened(name))} is no command; {remedy}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)
    else:
        sys.argv = [f"{PROGRAM} {name}", *words]
        module = "analysis.__main__" if name == "analysis" else f"experiments.{name}"
        raise SystemExit(import_module(module).main())


def _usage(known: Mapping[str, str]) -> str:
    lines = [f"  {name:10} {about.partition(':')[0]}" for name, about in known.items()]
    first = f"usage: {PROGRAM} COMMAND ...    ({PROGRAM} COMMAND --help explains each)"
    return "\n".join([first, "", *lines])


if __name__ == "__main__":
    main()
