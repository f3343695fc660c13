"""Names the command to run first, where the run that another starts from is not here."""

import re
from collections.abc import Iterable
from pathlib import Path

from experiments.config.paths import conf_dir

_RUN = "python -m experiments.run experiment="
_NAMED = re.compile(r"experiment=(\w+)")
_FROM_WEIGHTS = re.compile(r"override /init:")


def first_command(folder: Path, command: Iterable[str] = ()) -> str | None:
    """Command of conf/experiment that trains the run of a folder, results/<sweep>/<run id>.

    By the experiment that the run's own command names, else by the sweep's name; None if conf/ has
    none. Of several experiments of a sweep, those that start from no weights themselves.
    """
    there = {path.stem: path.read_text() for path in (conf_dir() / "experiment").glob("*.yaml")}
    named = [match[1] for word in command if (match := _NAMED.fullmatch(str(word)))]
    if named and named[0] in there:
        return f"{_RUN}{named[0]}"
    *_, group, sweep = ("", "", *folder.absolute().parent.parts)
    lines = {f"sweep: {sweep}", f"sweep: {group}/{sweep}"}
    found = sorted(name for name, text in there.items() if lines & set(text.splitlines()))
    own = [name for name in found if not _FROM_WEIGHTS.search(there[name])]
    return f"{_RUN}{(own or found)[0]}" if found else None
