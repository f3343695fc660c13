"""Questions to git about the checkout that this code is in."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT = 10  # seconds; a checkout on a slow network disk is not worth more


def run_git(repository: Path, *arguments: str) -> str | None:
    """Output of git in the checkout that tracks this folder; None if there is none.

    A folder can be inside a checkout of something else, as an installed package in a venv is.
    """

    def run(*command: str) -> str:
        done = subprocess.run(
            # without optional locks, so that many runs at once are not in each other's way
            ["git", "--no-optional-locks", "-C", str(repository), *command],
            capture_output=True,
            check=True,
            timeout=_TIMEOUT,
        )
        return done.stdout.decode(errors="replace")

    try:
        run("ls-files", "--error-unmatch", ".")
        return run(*arguments)
    except (OSError, subprocess.SubprocessError):
        return None


def tracked(repository: Path, paths: Sequence[Path]) -> set[Path]:
    """Those of these paths inside a checkout that it tracks; none where there is no checkout."""
    names = [str(path.resolve()) for path in paths]
    found = run_git(repository, "ls-files", "-z", "--full-name", "--", *names) if names else None
    top = run_git(repository, "rev-parse", "--show-toplevel")
    if found is None or top is None:
        return set()
    own = {Path(top.rstrip("\n")) / name for name in found.split("\0") if name}
    return {path for path in paths if path.resolve() in own}
