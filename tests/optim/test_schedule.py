"""Steps of a schedule's parts."""

from experiments.optim.schedule import step_of_stage
from experiments.records.schedule import lr_factor


def test_a_step_s_place_in_three_stages():
    expected = [(0, 3), (1, 3), (2, 3), (0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (0, 2), (1, 2)]
    assert [step_of_stage(step, (3, 5, 2)) for step in range(10)] == expected
    assert step_of_stage(11, (3, 5, 2)) == (3, 2)  # after the last
    assert step_of_stage(7, (9,)) == (7, 9)


def test_rates_of_three_stages_by_hand():
    """Each warms up, is flat and falls to a half, in its own number of steps."""
    rates = []
    for step in range(10):
        local, n_steps = step_of_stage(step, (4, 2, 4))
        how = {"kind": "wsd", "n_warmup": 1, "n_decay": 2, "final": 0.5}
        rates.append(lr_factor(local, n_steps, **how))
    assert rates == [1, 1, 0.75, 0.5, 1, 0.5, 1, 1, 0.75, 0.5]
