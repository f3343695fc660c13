"""Mistake in the product, in every process of a soak of own apps: SOAK_MISTAKE names it.

Python imports this file at its start if PYTHONPATH has its folder. It waits for a module of the
product, of whichever copy, and changes it: mistakes by name, each with its module.
"""

import importlib.abc
import importlib.util
import os
import sys
from contextlib import suppress

MISTAKES = {}


def mistake(module):
    """Enters a function of that module."""

    def enter(change):
        MISTAKES.setdefault(change.__name__, {})[f"experiments.{module}"] = change
        return change

    return enter


def replace(owner, name, mistaken):
    """Raises AttributeError for what the product has no more: the mistake would be none."""
    getattr(owner, name)
    setattr(owner, name, mistaken)


@mistake("sweep.own_run")
def never_saved(module):
    """No checkpoint is loaded."""
    replace(module.Run, "saved", lambda self: None)


@mistake("sweep.own_run")
def nothing_saved(module):
    """What is to be saved is not written."""
    replace(module.Run, "_save", lambda self, n_steps, content: None)


@mistake("sweep.own_run")
def seldom_saved(module):
    """Ten times as seldom as the app asks."""
    usual = module.Run.__init__

    def init(self, point, claim, progress, n_threads, save_seconds):
        usual(self, point, claim, progress, n_threads, 10 * save_seconds)

    replace(module.Run, "__init__", init)


@mistake("sweep.own_run")
def wrong_step(module):
    """A run goes on a step too early."""
    usual = module.Run.saved

    def saved(self):
        found = usual(self)
        return found and module.Saved(step=found.step - 1, content=found.content)

    replace(module.Run, "saved", saved)


@mistake("sweep.own_run")
def history_twice(module):
    """Rows of steps that are taken again stay."""
    replace(module, "_step_of", lambda row: -1)


@mistake("sweep.own_run")
def history_anew(module):
    """No row of an earlier process stays."""
    replace(module, "_step_of", lambda row: float("inf"))


@mistake("sweep.own_app")
def values_dropped(module):
    """A record has the first value alone."""
    usual = module._checked
    replace(module, "_checked", lambda values: dict([*usual(values).items()][:1]))


@mistake("sweep.own_app")
def done_twice(module):
    """The journal says twice that a run is done."""
    usual = module.log_event

    def log(folder, event, **details):
        for _ in range(1 + (event == "done")):
            usual(folder, event, **details)

    replace(module, "log_event", log)


@mistake("sweep.own_app")
def done_again(module):
    """A finished run is none."""
    replace(module, "ended_any_record", lambda folder, aside=False: None)


@mistake("sweep.planning")
def _of_planning(module):
    replace(module, "find_outcome", lambda folder: None)


MISTAKES["done_again"] |= MISTAKES.pop("_of_planning")


@mistake("system.claims")
def no_claim(module):
    """Nobody has a run for himself."""
    replace(module, "lock", lambda file, seconds: True)
    replace(module, "is_locked", lambda path: False)
    replace(module, "_read", lambda path: None)
    replace(module.Claim, "check", lambda self: None)


@mistake("sweep.queues._waiting")
def waiting_lost(module):
    """One of the points that are left to workers is not there."""
    usual = module.put
    replace(module, "put", lambda folder, run_ids: usual(folder, [*run_ids][:-1]))


@mistake("sweep.queues._waiting")
def waiting_stays(module):
    """A point waits though it has ended."""
    replace(module, "take_out", lambda folder, run_id: None)


@mistake("sweep.queues._cluster")
def withdrawn_for_all(module):
    """A command that ends withdraws what another one waits for, which does not put it back."""
    usual, given = module._waiting.put, set()

    def put(folder, run_ids):
        usual(folder, [one for one in run_ids if one not in given])
        given.update(run_ids)

    replace(module._waiting, "put", put)


@mistake("sweep.queues.workers")
def waits_for_the_dead(module):
    """Points of a command that was killed wait for its workers."""
    replace(module, "is_driven", lambda folder: True)


@mistake("sweep.many_runs")
def always_zero(module):
    """A command that leaves points to others, or was interrupted, ends with 0."""
    replace(module, "ELSEWHERE", 0)
    replace(module, "INTERRUPTED", 0)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and changes those of a mistake once they are there."""

    def __init__(self, changes):
        self.changes = dict(changes)

    def find_spec(self, name, path, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def mistaken(module):
            execute(module)
            change(module)

        spec.loader.exec_module = mistaken
        return spec


with suppress(KeyError):
    sys.meta_path.insert(0, Finder(MISTAKES[os.environ["SOAK_MISTAKE"]]))
