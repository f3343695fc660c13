"""Contenders timed in turn, round after round, on a machine that may have other work to do.

A spinning barrier makes a two-thread kernel several times slower when a third process wants a
core, and a ratio of two contenders says nothing if only one of them met it. So contenders take
turns, and a repeat counts only if other processes left the machine alone.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.benchmarks.core.progress import bar

MAX_OTHERS = 0.12  # cores that other processes may use during a repeat that counts
Call = Callable[[], object]
TRIES = 3  # of a repeat, until one counts
MIN_SECONDS = 0.25  # of a repeat, if it takes several calls: /proc/stat counts by 10 ms


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A timed call: the one that make() has made, each call after before(), which is not timed.

    baseline: the contender that it is compared with. max_rounds: for one that takes very long.
    needs: bytes while it runs; keeps: those that our workspace keeps for its next call.
    """

    name: str
    make: Callable[[], Call]
    before: Call = lambda: None
    baseline: str | None = None
    max_rounds: int | None = None
    needs: int = 0
    keeps: int = 0

    @cached_property
    def call(self) -> Call:
        """Made when it is first asked for."""
        return self.make()


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """seconds: of a call, the mean over n_calls. others: cores that other processes used
    meanwhile, None where that can't be known. quiet: few enough for the repeat to count.
    """

    seconds: float
    n_calls: int
    others: float | None
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contender's repeats, one for each round that it took part in."""

    name: str
    baseline: str | None
    repeats: tuple[Repeat, ...]

    @property
    def seconds(self) -> list[float]:
        """Of each repeat."""
        return [repeat.seconds for repeat in self.repeats]

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def n_loud(self) -> int:
        """Repeats that stayed disturbed in every try."""
        return sum(not repeat.quiet for repeat in self.repeats)

    def times_faster_than(self, other: "Timing") -> float:
        """Median over the rounds that both took part in of other's seconds over this one's."""
        return median(theirs / ours for theirs, ours in zip(other.seconds, self.seconds))


def compare(
    contenders: Sequence[Contender], *, rounds: int, device: str, label: str
) -> tuple[Timing, ...]:
    """Rounds of one repeat each, in turn, after a round that is not timed."""
    n_calls: dict[str, int] = {}

    def warm_up(contender: Contender) -> None:
        n_calls[contender.name] = _warm_up(contender, device)

    return in_turn(
        contenders, rounds, label, warm_up,
        lambda contender: quiet_repeat(contender, n_calls[contender.name], device),
    )  # fmt: skip


def in_turn(
    contenders: Sequence[Contender],
    rounds: int,
    label: str,
    warm_up: Callable[[Contender], object],
    repeat: Callable[[Contender], Repeat],
) -> tuple[Timing, ...]:
    """Rounds of one repeat each, in turn, after warming up."""
    repeats: dict[str, list[Repeat]] = {contender.name: [] for contender in contenders}
    assert len(repeats) == len(contenders), "names must be unique"
    with bar(len(contenders) * (rounds + 1), label) as shown:
        for turn in range(-1, rounds):
            for one in contenders:
                shown.set_postfix_str(one.name)
                if turn < 0:
                    warm_up(one)
                elif one.max_rounds is None or turn < one.max_rounds:
                    repeats[one.name].append(repeat(one))
                shown.update()
    return tuple(
        Timing(name=c.name, baseline=c.baseline, repeats=tuple(repeats[c.name])) for c in contenders
    )


def is_gated(device: str) -> bool:
    """Whether repeats can be refused: on a CPU, if the system reports other processes' load."""
    return device == "cpu" and cpu_seconds() is not None


def cpu_seconds() -> tuple[float, float] | None:
    """CPU seconds of the whole machine and of this process so far; None without /proc/stat.

    What a hypervisor takes for other machines counts as the machine's.
    """
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return busy, usage.ru_utime + usage.ru_stime


class Watch:
    """Counts the machine's load from now on."""

    def __init__(self) -> None:
        self._before, self._start = cpu_seconds(), time.perf_counter()

    def others(self, beside: float = 0.0) -> float | None:
        """Cores that other processes have used since; None where that can't be known. beside: CPU
        seconds of processes that belong to the measurement.
        """
        wall, after = time.perf_counter() - self._start, cpu_seconds()
        if self._before is None or after is None:
            return None
        machine, own = after[0] - self._before[0], after[1] - self._before[1]
        return max(0.0, machine - own - beside) / wall


def is_quiet(others: float | None) -> bool:
    """Whether a repeat counts."""
    return others is None or others < MAX_OTHERS


def quiet_repeat(contender: Contender, n_calls: int, device: str) -> Repeat:
    """As quietest, of that many calls."""
    return quietest(lambda: _repeat(contender, n_calls, device))


def quietest(repeat: Callable[[], Repeat]) -> Repeat:
    """First quiet repeat of TRIES, else the least disturbed one."""
    tried: list[Repeat] = []
    while len(tried) < TRIES:
        if tried:
            time.sleep(MIN_SECONDS)
        tried.append(repeat())
        if tried[-1].quiet:
            return tried[-1]
    return min(tried, key=lambda repeat: repeat.others or 0.0)


def _repeat(contender: Contender, n_calls: int, device: str) -> Repeat:
    watch = Watch()
    seconds = _calls(device)(contender, n_calls)
    others = watch.others() if device == "cpu" else None
    return Repeat(seconds=seconds, n_calls=n_calls, others=others, quiet=is_quiet(others))


def _calls(device: str) -> Callable[[Contender, int], float]:
    return _on_gpu if device == "cuda" else _on_cpu


def _on_cpu(contender: Contender, n_calls: int) -> float:
    total = 0.0
    for _ in range(n_calls):
        contender.before()
        start = time.perf_counter()
        contender.call()
        total += time.perf_counter() - start
    return total / n_calls


def _on_gpu(contender: Contender, n_calls: int) -> float:
    """By the GPU's own clock. Calls are queued without waiting, as a training loop's are."""
    events: list[Any] = []
    for _ in range(n_calls):
        contender.before()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        contender.call()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return sum(begin.elapsed_time(end) for begin, end in events) / 1e3 / n_calls


def _warm_up(contender: Contender, device: str) -> int:
    """Calls that make a repeat of MIN_SECONDS. The first call compiles, and fetches memory."""
    seconds = _calls(device)(contender, 1)
    if seconds < 8 * MIN_SECONDS or device == "cuda":
        seconds = _calls(device)(contender, 1)
    return max(1, round(MIN_SECONDS / max(seconds, 1e-6)))


def best_seconds(call: Callable[[], object], device: str) -> float:
    """Fastest of the calls that fit into MIN_SECONDS, three at least, on a quiet machine if
    one of TRIES finds it so: for a rate that a floor is made of.
    """
    found: list[float] = []

    def calls() -> None:
        start, n = time.perf_counter(), 0
        while n < 3 or time.perf_counter() - start < MIN_SECONDS:
            found.append(_calls(device)(one, 10 if device == "cuda" else 1))
            n += 1

    one = Contender(name="one call", make=lambda: call)
    call()
    # on a GPU each call has its own events, and the time of all calls together is not used
    quiet_repeat(Contender(name="calls", make=lambda: calls), 1, device)
    return min(found)
