"""Same work in several processes at once, each on a core of its own: as studies run.

One process alone has the whole memory, the last cache and the power of a processor. What a study's
run gets is what remains when every core has one.
"""

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from threading import BrokenBarrierError
from typing import Any, Protocol, Self

import torch

from experiments.benchmarks.core import timing
from experiments.benchmarks.core.timing import Call, Contender, Repeat, Timing
from experiments.system import environment

_BARRIER_SECONDS = 600.0  # no process lets the others wait longer
_POLL_SECONDS = 1.0


class Repeated(Protocol):
    """Work with several contenders, which each process makes."""

    def repeat(self, name: str, seconds: float) -> tuple[float, int, float]:
        """Contender's work again and again for so long: seconds of one, how many, and the
        CPU seconds of all.
        """
        ...


class Sides:
    """n processes, each of one thread, that hold what `make` returned in them, a picklable call.

    To be used as a context, at whose end they end.
    """

    def __init__(self, n: int, make: Callable[[], object]) -> None:
        self.cores = _cores(n)
        context = mp.get_context("spawn")
        self._barrier = context.Barrier(n)  # kept, for its name ends with it
        self._pipes: list[connection.Connection] = []
        self._processes: list[BaseProcess] = []
        for core in self.cores:
            ours, theirs = context.Pipe()
            arguments = (theirs, self._barrier, core, make)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Calls the method of each process's object, all at once, and returns their results.

        Raises RuntimeError with the first error, and if a process has died.
        """
        for pipe in self._pipes:
            pipe.send((method, arguments))
        replies = [self._reply(pipe) for pipe in self._pipes]
        errors = [error for error, _ in replies if error is not None]
        if errors:  # a process that waited for one that failed has none of its own to tell
            raise RuntimeError(next(filter(None, errors), "the processes waited too long"))
        return [found for _, found in replies]

    def _reply(self, pipe: connection.Connection) -> tuple[str | None, Any]:
        """Raises RuntimeError if a process has died, this one or one that it waits for."""
        with suppress(EOFError):
            while not pipe.poll(_POLL_SECONDS):
                if not all(process.is_alive() for process in self._processes):
                    raise EOFError
            return pipe.recv()
        raise RuntimeError("a process of the measurement has died")

    def compare(
        self, contenders: Mapping[str, str | None], *, rounds: int, seconds: float, label: str
    ) -> tuple[Timing, ...]:
        """Rounds of one repeat of each contender, in turn and in all processes at once, after one
        that is not timed. Processes hold a Repeated. contenders: their baselines, by name.

        A repeat's seconds are such that n times 1 / seconds is the rate of all processes together.
        """
        those = [Contender(name=n, baseline=b, make=_elsewhere) for n, b in contenders.items()]
        return timing.in_turn(
            those, rounds, label, lambda one: self.call("repeat", one.name, 0.0),
            lambda one: timing.quietest(partial(self._repeat, one.name, seconds)),
        )  # fmt: skip

    def _repeat(self, name: str, seconds: float) -> Repeat:
        watch = timing.Watch()
        found = self.call("repeat", name, seconds)
        others = watch.others(beside=sum(cpu for *_, cpu in found))
        return Repeat(
            seconds=len(found) / sum(1 / each for each, *_ in found),
            n_calls=sum(n for _, n, _ in found),
            others=others,
            quiet=timing.is_quiet(others),
        )


def _elsewhere() -> Call:
    raise RuntimeError("the contenders are in other processes")


def repeated(call: Callable[[], object], seconds: float) -> tuple[float, int, float]:
    """As Repeated.repeat returns it; the call is made once at least."""
    cpu, start, n = time.process_time(), time.perf_counter(), 0
    while True:
        call()
        n += 1
        wall = time.perf_counter() - start
        if wall >= seconds:
            return wall / n, n, time.process_time() - cpu


def _cores(n: int) -> Sequence[int | None]:
    """One for each process, in turn; None: the system does not say which there are."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * n
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i % len(cores)] for i in range(n)]


def _serve(
    pipe: connection.Connection, barrier: Any, core: int | None, make: Callable[[], object]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the measurement's own process hears it
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})
        torch.set_num_threads(1)
        environment.keep_freed_memory()
        environment.exact_products()
        environment.flush_denormals(True)
        made = make()
        while True:
            method, arguments = pipe.recv()
            barrier.wait(_BARRIER_SECONDS)
            pipe.send((None, getattr(made, method)(*arguments)))
    except Exception as error:
        barrier.abort()
        pipe.send(("" if isinstance(error, BrokenBarrierError) else str(error), None))
        pipe.recv()  # until it is ended
