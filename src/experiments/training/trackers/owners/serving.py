"""How a process that owns a tracked run is told what to do: by guest.py's pipe. Each script beside
this one loads it by its path and serves an Owner: init, begin, log, finish, and `run`, None if
closed.

At the end of the pipe without a finish, whoever told it is gone: it closes the run, so that no row
is lost, or is ended by an alarm. Standard library only.
"""

import json
import os
import shutil
import signal
from contextlib import suppress
from typing import Any

_CLOSING = 120  # seconds at most


def serve(owner: Any) -> None:
    """Answers each message; ends at the first that fails. Its one key names the method."""
    messages, answers = _own_pipes()
    try:
        for line in messages:
            ((name, values),) = json.loads(line).items()
            getattr(owner, name)(**values)
            _answer(answers)
        if owner.run is not None:
            signal.alarm(_CLOSING)
            owner.finish(exit_code=1, summary={})
        _remove_folder()
    except BaseException as error:  # a package may ask for an exit
        _answer(answers, repr(error))
        messages.read()  # until it is killed, and with it what it has started, or is alone
        _remove_folder()
        os._exit(1)  # without a package's hooks at exit, which may wait, or complain


def _remove_folder() -> None:
    """Removes temporary files, where whoever started this process may be gone (guest.py)."""
    shutil.rmtree(os.environ.get("EXPERIMENTS_GUEST_FOLDER", ""), ignore_errors=True)


def _answer(answers: Any, error: str = "") -> None:
    with suppress(BrokenPipeError):  # whoever asked is gone: the rows are kept all the same
        answers.write(f"{error}\n".encode())


def _own_pipes() -> tuple[Any, Any]:
    """Messages and answers; what a package starts, and prints, is kept from them."""
    messages, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return messages, answers
