"""What came of the trials: a table by kind of fault, and each failure as the command to see it."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.soak.judge import VERDICTS
from tests.soak.trials import Outcome


def failure(outcome: Outcome, seed: int) -> str:
    """A failed trial in some lines: what was done, what was wrong, how to repeat it."""
    faults = "; then ".join(f"{kind} ({what})" for kind, what in outcome.faults) or "no fault"
    lines = [f"FAILED {outcome.name} [{outcome.what}]: {faults}"]
    lines += [f"  {problem.kind}: {problem.text}" for problem in outcome.problems]
    lines += [f"  make soak SEED={seed} ONLY={outcome.name}    # its files: {outcome.folder}"]
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a kind: faults injected, trials with one, and trials that ended in each verdict.

    A failed trial counts for every kind of fault that it had.
    """
    faults: Counter[str] = Counter()
    trials: Counter[str] = Counter()
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        kinds = [kind for kind, _ in outcome.faults] or ["no fault came in time"]
        faults.update(kind for kind, _ in outcome.faults)
        for kind in dict.fromkeys(kinds):
            trials[kind] += 1
            verdicts[kind].update({problem.kind for problem in outcome.problems})
    width = max([len(kind) for kind in trials], default=4)
    lines = [f"{'fault':<{width}}  faults  trials" + "".join(f"  {v:>9}" for v in VERDICTS)]
    for kind in sorted(trials):
        counts = "".join(f"  {verdicts[kind][verdict]:>9}" for verdict in VERDICTS)
        lines.append(f"{kind:<{width}}  {faults[kind]:>6}  {trials[kind]:>6}{counts}")
    skipped = {kind: why for outcome in outcomes for kind, why in outcome.skipped.items()}
    lines += [f"not tried: {kind}: {why}" for kind, why in sorted(skipped.items())]
    return "\n".join(lines)


def last_line(outcomes: Sequence[Outcome], seconds: float, seed: int) -> str:
    """Totals: of trials, each counted once a verdict."""
    found: Counter[str] = Counter()
    for outcome in outcomes:
        found.update({problem.kind for problem in outcome.problems})
    n_faults = sum(len(outcome.faults) for outcome in outcomes)
    verdicts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)
    return (
        f"{n_faults} faults in {len(outcomes)} trials in {seconds / 60:.1f} minutes "
        f"(seed {seed}): {verdicts}"
    )
