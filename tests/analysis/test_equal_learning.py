"""Ways at equal learning, beside values that are worked out by hand."""

import math
from dataclasses import replace

import pytest

from analysis import compare_at_learning, compare_forgetting
from analysis.__main__ import main
from experiments.records.files import write_record
from tests.analysis.test_forgetting import stream_run

ORDERS = (("sea", "farm"), ("farm", "sea"))


def run(learning, forgetting, base, *, lr, seed=0, order=ORDERS[0], train="all"):
    """Learns as much of both domains, and then forgets that much of the first."""
    matrix = [[5.0, 5.0], [5.0 - learning, 5.0], [5.0 - learning + forgetting, 5.0 - learning]]
    made = stream_run(
        seed,
        matrix,
        (2.0, 2.0, 2.0 + base),
        order,
        lr,
        init={"train": train, "how": "keep"},
    )
    return replace(made, run_id=f"{abs(hash((learning, lr, seed, order, train))):016x}"[:12])


def two_ways():
    """Full fine-tuning at three rates on one stream and one on another; LoRA at two on both."""
    full = [
        run(1.0, 0.4, 0.2, lr=1e-3),
        run(2.0, 1.0, 0.6, lr=3e-3),
        run(1.8, 1.5, 0.9, lr=1e-2),  # learns less than at the rate before
        run(1.2, 0.5, 0.3, lr=1e-3, order=ORDERS[1]),
    ]
    lora = [
        run(1.0, 0.2, 0.1, lr=3e-3, train="lora"),
        run(2.0, 0.6, 0.3, lr=1e-2, train="lora"),
        run(0.5, 0.1, 0.0, lr=3e-3, train="lora", order=ORDERS[1]),
        run(1.5, 0.5, 0.2, lr=1e-2, train="lora", order=ORDERS[1]),
    ]
    return [*full, *lora]


def test_curves_are_read_at_equal_learning_and_differences_are_of_the_same_streams():
    found = compare_at_learning(two_ways(), learning=1.5)
    full, lora = found.ways
    # half of the way from 1.0 to 2.0; the other stream has 1.2, and the curve changes by
    # 0.6 * 0.3 and 0.4 * 0.3 from there
    assert full.forgetting.value == pytest.approx((0.7 + (0.5 + 0.18)) / 2)
    assert full.base.value == pytest.approx((0.4 + (0.3 + 0.12)) / 2)
    assert (full.n_streams, full.n_moved) == (2, 1)
    assert lora.forgetting.value == pytest.approx((0.4 + 0.5) / 2)
    assert (lora.n_streams, lora.n_moved) == (2, 0)
    assert found.baseline == full.way
    less = [0.4 - 0.7, 0.5 - 0.68]
    half = 12.706204736432 * (abs(less[0] - less[1]) / math.sqrt(2)) / math.sqrt(2)
    assert lora.forgetting_less.value == pytest.approx(sum(less) / 2)
    assert lora.forgetting_less.upper - lora.forgetting_less.value == pytest.approx(half)
    assert full.forgetting_less.value == 0


def test_streams_of_one_order_are_one_value():
    more = [
        run(1.5, 0.5, 0.4, lr=3e-3, seed=1),
        run(1.5, 0.1, 0.2, lr=3e-3, seed=1, train="lora"),
    ]
    _, lora = compare_at_learning([*two_ways(), *more], learning=1.5).ways
    orders = [((0.4 - 0.7) + (0.1 - 0.5)) / 2, 0.5 - 0.68]
    half = 12.706204736432 * (abs(orders[0] - orders[1]) / math.sqrt(2)) / math.sqrt(2)
    assert lora.n_shared == 3
    assert lora.forgetting_less.value == pytest.approx((0.4 - 0.7 + 0.1 - 0.5 + 0.5 - 0.68) / 3)
    assert lora.forgetting_less_by_order.value == pytest.approx(sum(orders) / 2)
    low, high = lora.forgetting_less_by_order.lower, lora.forgetting_less_by_order.upper
    assert (high - low) / 2 == pytest.approx(half)


def test_nothing_is_extrapolated():
    found = compare_at_learning(two_ways(), learning=0.7)
    (lora,) = found.ways  # by the second order alone
    assert lora.n_streams == 1
    assert lora.forgetting.value == pytest.approx(0.1 + 0.4 * 0.2)
    assert found.skipped == (f"{compare_at_learning(two_ways()).baseline} learns +1 to +2",)
    assert found.baseline == ""
    assert "one stream alone" in found.warnings[0]
    assert "no value: " in found.summary()


def test_by_default_the_amount_that_most_ways_have_learnt():
    found = compare_at_learning(two_ways())
    assert found.learning == pytest.approx(2.0)  # the largest that both have
    assert len(found.ways) == 2
    assert compare_forgetting(two_ways()).equal.learning == found.learning


def test_a_joint_run_has_a_loss_on_the_base_alone():
    joint = stream_run(3, [[3.0, 4.0], [2.0, 3.0]], (2.0, 2.1), joint=True)
    (at,) = compare_at_learning([joint]).ways
    assert at.base.value == pytest.approx(0.1)
    assert math.isnan(at.forgetting.value)


def test_one_domain_alone_is_not_compared():
    alone = stream_run(0, [[3.0], [2.0]], order=("sea",))
    assert compare_forgetting([alone]).equal is None
    assert len(compare_at_learning([*two_ways(), alone]).ways) == 2
    with pytest.raises(ValueError, match="no run has learnt several domains"):
        compare_at_learning([alone])


def test_amounts_and_baselines_that_are_not_there(tmp_path, capsys):
    for i, one in enumerate(two_ways()):
        flops = 6.0 * one.n_active_params * one.n_tokens
        write_record(tmp_path / one.run_id, replace(one, budget=flops, val_loss=3.0 + i / 10))
    for options, why in (
        (["--learning", "9"], "no way has learnt that; the most is 2"),
        (["--learning", "inf"], "must be a finite number of bits/byte"),
        (["--baseline", "none"], "baseline='none' is not one of "),
    ):
        assert main(["compare", str(tmp_path), *options]) == 2
        assert why in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--learning", "1.5"]) == 0
    assert "where each has learnt 1.5 bits/byte" in capsys.readouterr().out
