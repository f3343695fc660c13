"""Questions of SLDBench's kind, found by themselves: the TASKS of each file."""

from importlib import import_module
from pkgutil import iter_modules

from analysis.benchmark.task import Task


def find_tasks() -> list[Task]:
    """Those of most columns first, so that a table is of the task that uses most of it."""
    found = [
        task
        for file in iter_modules(__path__)
        for task in import_module(f"{__name__}.{file.name}").TASKS
    ]
    return sorted(found, key=lambda task: -len(task.columns))
