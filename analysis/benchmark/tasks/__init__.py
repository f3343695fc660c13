"""Questions of SLDBench's kind, one a file, found by itself: its TASK has the name of the file."""

from importlib import import_module
from pkgutil import iter_modules

from analysis.benchmark.task import Task


def find_tasks() -> list[Task]:
    """Those of most columns first, so that a table is of the task that uses most of it."""
    found = [import_module(f"{__name__}.{file.name}").TASK for file in iter_modules(__path__)]
    return sorted(found, key=lambda task: -len(task.columns))
