import pytest

from experiments.budget.plan import check_memory, format_shares, peak_lr, plan_steps


def test_steps_come_nearest_to_the_budget():
    assert plan_steps(1000.0, flops_per_token=1.0, batch_tokens=10) == 100
    assert plan_steps(1004.9, flops_per_token=1.0, batch_tokens=10) == 100


@pytest.mark.parametrize("budget", [1e11, 3.7e12, 6e18])
def test_planned_flops_are_within_one_percent(budget):
    flops_per_token, batch_tokens = 1.234e6, 512
    n_steps = plan_steps(budget, flops_per_token, batch_tokens)
    assert n_steps * batch_tokens * flops_per_token == pytest.approx(budget, rel=0.01)


@pytest.mark.parametrize("miss", [-0.0099, 0.0099])
def test_one_percent_is_allowed(miss):
    assert plan_steps(1000 / (1 + miss), flops_per_token=1.0, batch_tokens=100) == 10


@pytest.mark.parametrize("miss", [-0.0101, 0.0101])
def test_more_than_one_percent_is_refused(miss):
    with pytest.raises(ValueError, match=r"10 whole steps .* 1 % is allowed"):
        plan_steps(1000 / (1 + miss), flops_per_token=1.0, batch_tokens=100)


def test_a_budget_of_one_step_is_enough():
    assert plan_steps(10.0, flops_per_token=1.0, batch_tokens=10) == 1


def test_refuses_a_budget_below_one_step():
    with pytest.raises(ValueError, match="budget=4 FLOPs is below one step"):
        plan_steps(4.0, flops_per_token=1.0, batch_tokens=10)


def test_refuses_steps_that_miss_the_budget_and_names_one_that_fits():
    with pytest.raises(ValueError, match=r"10 whole steps .* -3\.8 %.*set budget=100") as error:
        plan_steps(104.0, flops_per_token=1.0, batch_tokens=10)
    fitting = float(str(error.value).rsplit("=", 1)[1])
    assert plan_steps(fitting, 1.0, 10) == 10


def test_learning_rate_scales_with_width():
    assert peak_lr(1e-2, 64, 0.5, 64) == 1e-2
    assert peak_lr(1e-2, 64, 0.5, 256) == pytest.approx(5e-3)


def test_memory_that_is_not_there_is_refused():
    check_memory(10, None, "x")
    check_memory(10, 10, "x")
    with pytest.raises(ValueError, match=r"peer needs about 2\.0 GiB of memory and there are 1\.0"):
        check_memory(2**31, 2**30, "peer")


def test_shares_are_readable():
    assert (
        format_shares({"head": 0.5, "ffn.dense": 0.3, "x": 0.2}, 2) == "head 50 %, ffn.dense 30 %"
    )
