"""Odd settings of launchers, sweeps and searches: one line each, in a dry run too."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.reading import read
from experiments.points.planning import make_point
from experiments.sweep.queue import queue_named
from tests import odd_input
from tests.conftest import REPOSITORY

ROWS = odd_input.rows(REPOSITORY / "tests" / "sweep" / "odd_input.txt")
SETTING = "hydra.launcher."
LAUNCHERS = [row for row in ROWS if row.values[0][0].startswith(f"{SETTING}queue=")]


@pytest.mark.parametrize(("words", "part"), LAUNCHERS)
def test_an_odd_setting_of_a_launcher_is_refused_before_a_plan_is_printed(compose_raw, words, part):
    point = make_point(compose_raw(*(word for word in words if not word.startswith(SETTING))))
    given = OverridesParser.create().parse_overrides(
        [word.removeprefix(SETTING) for word in words if word.startswith(SETTING)]
    )
    queue, *settings = given
    values = {setting.key_or_group: setting.value() for setting in settings}
    with pytest.raises(ValueError, match=re.escape(part)) as error:
        read(queue_named(queue.value()), values, SETTING.rstrip(".")).plan([point])
    odd_input.check(str(error.value), part, words)


@pytest.mark.parametrize(("words", "part"), [row for row in ROWS if row not in LAUNCHERS])
def test_an_odd_sweep_is_refused_in_one_line(run, tmp_path, words, part):
    code, out, err = run(*words, "dry_run=true", "trainer.flops_per_second=1e9")
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    odd_input.check(err.removesuffix("\n").splitlines()[-1], part, words)  # after a slow plan's bar
