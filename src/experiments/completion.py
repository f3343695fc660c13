"""Words that a shell completes: `source <(experiments completion bash)`, or zsh."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from experiments.__main__ import PROGRAM, commands
from experiments.sweep.folders import sweep_folders
from experiments.system.command import Parser, exit_codes
from experiments.system.modules import find_modules

_OF_SWEEPS = ("work", "status", "cancel", "retry", "collect", "publish")
_REPLIES = "replies"
_BASH = f"""
_{PROGRAM}() {{
  local IFS=$'\\n'
  export COMP_LINE COMP_POINT
  COMPREPLY=($({PROGRAM} completion {_REPLIES} 2>/dev/null))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _{PROGRAM} {PROGRAM}
"""
_SHELLS = {"bash": _BASH, "zsh": f"autoload -Uz bashcompinit && bashcompinit\n{_BASH}"}


def main() -> None:
    """Prints what a shell reads."""
    parser = Parser(description=" ".join((__doc__ or "").split()))
    parser.add_argument("shell", choices=[*_SHELLS, _REPLIES], metavar="bash|zsh")
    options = parser.parse_args()
    with exit_codes():
        if options.shell != _REPLIES:
            print(_SHELLS[options.shell].strip())
            return
        line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
        for word in _replies(line):
            print(word)


def _replies(line: str) -> list[str]:
    """Words that the last one of a line can become; none where a shell's own files will do."""
    before, last = line.split()[1:], ""
    if not line.endswith(" ") and before:
        last = before.pop()
    found = _words(before, line, last)
    return sorted({word for word in found if word.startswith(last)})


def _words(before: list[str], line: str, last: str) -> Iterator[str]:
    if not before:
        yield from (f"{name} " for name in commands())
    elif before[0] == "run" and not last.startswith("-"):
        # Hydra's own, which takes the first word for the program
        words = line.split(maxsplit=2)[2:]
        os.environ["COMP_LINE"] = rest = f"{PROGRAM} {words[0] if words else ''}"
        os.environ["COMP_POINT"] = str(len(rest))
        yield from _printed("run", "-sc", "query=bash").split()
    elif before == ["analysis"] and not last.startswith("-"):
        spec = find_spec("analysis.commands")
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            yield from (f"{module.name} " for module in find_modules(Path(folder)))
    elif before[0] in commands():
        if last.startswith("-"):
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", _printed(before[0], "--help")):
                yield f"{option} "
        elif before[0] in _OF_SWEEPS:
            results = Path("results")
            yield from (f"{path.relative_to(results)} " for path in sweep_folders(results))


def _printed(name: str, *words: str) -> str:
    sys.argv = [f"{PROGRAM} {name}", *words]
    module = "analysis.__main__" if name == "analysis" else f"experiments.{name}"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        import_module(module).main()
    return printed.getvalue()
