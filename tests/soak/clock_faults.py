"""A clock that jumps while a run trains."""

import time

from tests.soak.faults import fault
from tests.soak.stage import PATIENCE
from tests.soak.trials import Trial, last_line


@fault("clock set", "clock", "alone", "sweep", weight=1)
def clock(trial: Trial) -> None:
    """time.time() jumps by an hour or by a year, back or forth."""
    jump = trial.rng.choice((-3600.0, 3600.0, -400 * 86400.0, 400 * 86400.0))
    moment = trial.some_time()
    marker = trial.stage.folder / f"clock-{trial.stage.n_started}"

    def before() -> None:
        usual, start = time.time, time.monotonic()

        def jumping() -> float:
            if time.monotonic() - start < moment:
                return usual()
            marker.touch()
            return usual() + jump

        time.time = jumping

    process = trial.stage.start(before)
    code = process.wait(PATIENCE)
    if marker.exists():  # somebody has asked for the time after the jump
        trial.injected("clock set", f"by {jump:.0f} s after {moment:.3f} s -> {code}")
        if code:
            trial.wrong(f"clock set: exit code {code}, {last_line(process.output)}")
