"""Batched descents end where scipy's end, one at a time; and say so when they do not."""

import numpy as np
import pytest
from scipy import optimize, special

from analysis.fitting import least_squares
from analysis.fitting.least_squares import compute_covariance, condition_number, huber, minimise
from analysis.fitting.power_sum import exponentiated, non_negative, power_sum

BOX = {"lower": np.array([-50.0, -50.0, -50.0]), "upper": np.array([50.0, 50.0, 50.0])}


def decay(x):
    """y = t0 + t1 exp(-t2 x): two linear parameters and one that is not."""

    def model(theta):
        t0, t1, t2 = (column[:, None] for column in theta.T)
        fall = np.exp(-t2 * x)
        one = np.ones_like(fall)
        return t0 + t1 * fall, np.stack([one, fall, -t1 * x * fall], axis=-1)

    return model


def line(x):
    design = np.stack([np.ones_like(x), x], axis=1)
    return lambda theta: (
        theta @ design.T,
        np.broadcast_to(design, (len(theta), *design.shape)),
    )


def problem(seed, n=40, outliers=4):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n)
    truth = np.array([rng.normal(), rng.uniform(1, 5), rng.uniform(0.3, 2)])
    y = decay(x)(truth[None])[0][0] + rng.normal(0, 0.05, n)
    y[:outliers] += rng.normal(0, 2, outliers)
    starts = np.stack([rng.normal(0, 1, 6), rng.uniform(0.5, 6, 6), rng.uniform(0.1, 3, 6)], axis=1)
    return x, y, starts, rng


def objective(model, y, delta, weights=1.0):
    """Same sum and its gradient, for scipy."""

    def value(theta):
        predicted, jacobian = model(theta[None])
        r = predicted[0] - y
        slope = r if np.isinf(delta) else np.clip(r, -delta, delta)
        return float((weights * huber(r, delta)).sum()), (weights * slope) @ jacobian[0]

    return value


def polished(value, start, bounds):
    """L-BFGS-B, restarted until it gains nothing: one run stops early on flat sums."""
    best = optimize.OptimizeResult(x=start, fun=value(start)[0])
    for _ in range(20):
        found = optimize.minimize(
            value,
            best.x,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 5000},
        )
        if not found.fun < best.fun * (1 - 1e-13):
            break
        best = found
    return best


@pytest.mark.parametrize("delta", [np.inf, 0.5, 0.05, 1e-3])
@pytest.mark.parametrize("seed", range(6))
def test_no_start_of_scipys_ends_below_ours(delta, seed):
    x, y, starts, rng = problem(seed)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y))).astype(float)
    found = minimise(decay(x), y, starts, **BOX, weights=weights, delta=delta)
    value = objective(decay(x), y, delta, weights)
    bounds = list(zip(BOX["lower"], BOX["upper"], strict=True))
    theirs = min(polished(value, s, bounds).fun for s in starts)
    # Nor does it gain from where ours ended. 1e-8: what L-BFGS-B itself leaves on such sums.
    again = polished(value, found.theta[found.best], bounds).fun
    assert found.value[found.best] <= min(theirs, again) * (1 + 1e-8)
    assert found.converged[found.best]
    assert found.value[found.best] == pytest.approx(value(found.theta[found.best])[0], rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_squares_agree_with_scipys_least_squares_in_a_box(seed):
    x, y, starts, _ = problem(seed)
    model = decay(x)
    free = minimise(model, y, starts, **BOX)
    lower, upper = BOX["lower"].copy(), BOX["upper"].copy()
    k = seed % 3  # the optimum lies outside in this parameter
    optimum = free.theta[free.best]
    (lower if seed % 2 else upper)[k] = optimum[k] + (0.2 if seed % 2 else -0.2)
    found = minimise(model, y, starts, lower=lower, upper=upper)
    theirs = optimize.least_squares(
        lambda t: model(t[None])[0][0] - y,
        np.clip(optimum, lower + 1e-6, upper - 1e-6),
        jac=lambda t: model(t[None])[1][0],
        bounds=(lower, upper),
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    best = found.best
    # 1e-6: scipy's trf keeps strictly inside the box and only nears the bound
    assert found.value[best] <= theirs.cost * (1 + 1e-6)
    np.testing.assert_allclose(found.theta[best], theirs.x, rtol=1e-4, atol=1e-4)
    assert found.at_bound[best].tolist() == [i == k for i in range(3)]
    assert found.theta[best, k] == (lower if seed % 2 else upper)[k]
    assert found.converged[best]


@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_huber_agrees_with_scipys_least_squares(delta):
    x, y, starts, _ = problem(11)
    model = decay(x)
    found = minimise(model, y, starts, **BOX, delta=delta)
    theirs = optimize.least_squares(
        lambda t: model(t[None])[0][0] - y,
        found.theta[found.best] + 0.05,
        loss="huber",
        f_scale=delta,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    # 1e-7, 1e-4: scipy's finite differences
    assert found.value[found.best] == pytest.approx(theirs.cost, rel=1e-7)
    np.testing.assert_allclose(found.theta[found.best], theirs.x, rtol=1e-4)


def test_of_many_random_starts_none_claims_a_minimum_that_is_none():
    x, y, _, rng = problem(3)
    starts = rng.uniform([-5, -5, 0.0], [5, 5, 6.0], (60, 3))
    value = objective(decay(x), y, 0.05)
    found = minimise(decay(x), y, starts, **BOX, delta=0.05)
    bounds = list(zip(BOX["lower"], BOX["upper"], strict=True))
    assert found.converged.mean() > 0.9
    for theta, at in zip(found.theta[found.converged], found.value[found.converged], strict=True):
        # A cosine of 1e-4 is 1e-8 of the objective; ten times that for what is not quadratic
        assert polished(value, theta, bounds).fun >= at * (1 - 1e-7)


def test_weights_count_like_repeated_points():
    x, y, starts, rng = problem(5)
    counts = rng.integers(0, 4, len(y))
    weighted = minimise(decay(x), y, starts, **BOX, weights=counts.astype(float), delta=0.1)
    repeated = minimise(decay(np.repeat(x, counts)), np.repeat(y, counts), starts, **BOX, delta=0.1)
    # 1e-6: a minimum's place is told to the root of the precision of its value
    np.testing.assert_allclose(weighted.value, repeated.value, rtol=1e-10)
    np.testing.assert_allclose(weighted.theta, repeated.theta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("numbers_held", [1, 500])
def test_chunks_and_single_problems_give_the_same(monkeypatch, numbers_held):
    x, y, starts, rng = problem(8)
    targets = y + rng.normal(0, 0.1, (len(starts), len(y)))
    weights = rng.uniform(0.5, 2, targets.shape)
    whole = minimise(decay(x), targets, starts, **BOX, weights=weights, delta=0.1)
    monkeypatch.setattr(least_squares, "_CHUNK", numbers_held)
    parts = minimise(decay(x), targets, starts, **BOX, weights=weights, delta=0.1)
    single = [
        minimise(decay(x), targets[i], starts[i], **BOX, weights=weights[i], delta=0.1)
        for i in range(len(starts))
    ]
    # 1e-10, 1e-6: sums in another order, and the place of a minimum
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-10)
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-6)
    np.testing.assert_allclose([m.value[0] for m in single], whole.value, rtol=1e-10)
    assert parts.converged.tolist() == whole.converged.tolist()


def one_step_after_another(model, y, theta, weights, delta, n_steps):
    """One start's descent with everything computed at each step; how many steps were refused."""

    def value(at):
        return (weights * huber(model(at[None])[0][0] - y, delta)).sum()

    damping, refused = 1e-3, 0
    for k in range(n_steps):
        predicted, jacobian = model(theta[None])
        r, J = predicted[0] - y, jacobian[0]
        g = J.T @ (weights * np.clip(r, -delta, delta))
        hessian = J.T @ np.diag(weights * (np.abs(r) <= delta)) @ J
        scale = np.sqrt((weights * np.minimum(1, delta / np.abs(r))) @ J**2)
        at_lower, at_upper = theta <= BOX["lower"], theta >= BOX["upper"]
        free = ~((at_lower & (g > 0)) | (at_upper & (g < 0)))
        values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale) * np.outer(free, free))
        damped = vectors @ np.diag(np.abs(values) + damping) @ vectors.T
        step = -np.linalg.solve(damped, np.where(free, g / scale, 0.0)) / scale
        step = np.where(free, step, 0.0)
        if k >= 10:  # turned along the valley
            probe = model((theta + 0.1 * step)[None])[0][0]
            second = 20 * ((probe - predicted[0]) / 0.1 - J @ step)
            along = J.T @ (weights * (np.abs(r) <= delta) * second)
            turn = -np.linalg.solve(damped, np.where(free, along / scale, 0.0)) / 2
            if np.abs(turn).max() <= 0.75 * np.abs(step * scale).max():
                step = step + np.where(free, turn / scale, 0.0)
        candidate = np.clip(theta + step, BOX["lower"], BOX["upper"])
        if value(candidate) < value(theta):
            theta, damping = candidate, damping / 10
        else:
            damping, refused = damping * 10, refused + 1
    return theta, refused


@pytest.mark.parametrize("delta", [np.inf, 0.5, 0.05])
@pytest.mark.parametrize("n_steps", [1, 2, 5, 9, 13])
def test_steps_are_those_of_each_start_alone_with_everything_computed_again(delta, n_steps):
    x, y, starts, rng = problem(9)
    starts = np.vstack([starts, [[50.0, -50.0, 3.0]]])  # two at their bounds
    weights = rng.uniform(0.5, 2, (len(starts), len(y)))
    found = minimise(decay(x), y, starts, **BOX, weights=weights, delta=delta, max_steps=n_steps)
    alone = [
        one_step_after_another(decay(x), y, start, w, delta, n_steps)
        for start, w in zip(starts, weights, strict=True)
    ]
    # 1e-12 of a parameter's size, 1 or so: another order of sums, over few steps; 1e-7 where
    # second differences, which lose half of the digits, turn them
    off = 1e-12 if n_steps < 10 else 1e-7
    np.testing.assert_allclose(found.theta, [theta for theta, _ in alone], rtol=off, atol=off)
    assert n_steps < 5 or sum(refused for _, refused in alone) > 3


def test_the_bend_of_a_path_is_the_second_derivative_along_it():
    x = np.linspace(0, 3, 20)
    theta, step = np.array([[0.3, 2.0, 0.9]]), np.array([[0.1, -0.2, 0.3]])
    value, jacobian = decay(x)(theta)
    turned, known = jacobian.transpose(0, 2, 1), np.linspace(0, 2, 20)[None]
    found = least_squares._curved(decay(x), theta, 1e-3 * step, value, turned, known)
    (_, b, c), (_, db, dc) = theta[0], step[0]
    second = np.exp(-c * x) * (b * (dc * x) ** 2 - 2 * db * dc * x)
    # 1e-3: the probe is a tenth of a step of a thousandth away
    np.testing.assert_allclose(found[0], 1e-6 * jacobian[0].T @ (known[0] * second), rtol=1e-3)


@pytest.mark.parametrize("delta", [np.inf, 0.05])
@pytest.mark.parametrize("enough", [1e-2, 1e-3])
def test_what_is_near_enough_is_that_near(delta, enough):
    x, y, starts, rng = problem(4)
    weights = rng.poisson(1.0, (60, len(y))).astype(float)
    how = {**BOX, "weights": weights, "delta": delta}
    begin = np.repeat(minimise(decay(x), y, starts, **BOX, delta=delta).theta[:1], 60, axis=0)
    end, near = (minimise(decay(x), y, begin, **how, enough=e) for e in (0.0, enough))
    away = (near.value - end.value) / end.value * len(y)
    assert (away > 1e-9).any()  # it did end sooner
    # Twice: the sum is no parabola, and points pass delta on the way
    assert away.max() < 2 * enough


def test_no_starts_give_no_minima():
    x, y, *_ = problem(0)
    none = minimise(decay(x), y, np.empty((0, 3)), **BOX)
    assert none.theta.shape == none.at_bound.shape == (0, 3)
    assert none.value.shape == none.converged.shape == (0,)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("delta", [np.inf, 0.5])
def test_the_gradient_is_the_largest_cosine_whatever_the_unit(scale, delta):
    """Of the residuals and a column of the Jacobian: 1 is as far from a minimum as can be."""
    x, y, starts, _ = problem(2, outliers=0)
    weights = np.linspace(0.5, 2.0, len(x))
    units = np.array([scale, scale, 1.0])
    model, start = decay(x), starts[:1] * units
    box = {"lower": np.full(3, -1e9), "upper": np.full(3, 1e9)}
    # A single step is never enough, so what is reported is of the start
    found = minimise(
        model, scale * y, start, **box, weights=weights, delta=delta * scale, max_steps=1
    )
    predicted, jacobian = model(start)
    r, J = predicted[0] - scale * y, jacobian[0]
    bent = weights * np.minimum(1.0, delta * scale / np.abs(r))  # Huber's, as reweighted squares
    lengths = np.sqrt(bent @ J**2) * np.sqrt(bent @ r**2)
    assert found.gradient[0] == pytest.approx(np.abs((bent * r) @ J / lengths).max(), rel=1e-9)
    assert not found.converged[0]


def test_too_few_steps_are_not_called_converged():
    x, y, starts, _ = problem(1)
    hurried = minimise(decay(x), y, starts, **BOX, max_steps=2)
    assert not hurried.converged.any()
    assert (hurried.gradient > 1e-4).all()


def test_starts_outside_the_box_begin_at_its_edge_and_useless_ones_lose():
    x, y, starts, _ = problem(2)
    wild = np.vstack([[1e9, -1e9, 1e9], [0.0, 50.0, -50.0], starts])
    found = minimise(decay(x), y, wild, **BOX)
    assert ((found.theta >= BOX["lower"]) & (found.theta <= BOX["upper"])).all()
    assert found.value[found.best] == pytest.approx(
        minimise(decay(x), y, starts, **BOX).value.min()
    )


def test_a_parameter_with_no_room_stays_and_is_said_to_be_at_its_bound():
    x, y, starts, _ = problem(4)
    lower, upper = BOX["lower"].copy(), BOX["upper"].copy()
    lower[0] = upper[0] = 0.25
    found = minimise(decay(x), y, starts, lower=lower, upper=upper)
    assert (found.theta[:, 0] == 0.25).all()
    assert found.at_bound[found.best].tolist() == [True, False, False]
    assert found.converged[found.best]


def test_an_exact_fit_with_a_parameter_that_does_nothing():
    x = np.linspace(0.0, 1.0, 8)
    design = np.stack([np.ones_like(x), x, np.zeros_like(x)], axis=1)
    found = minimise(
        lambda theta: (theta @ design.T, np.broadcast_to(design, (len(theta), *design.shape))),
        np.zeros_like(x),
        np.zeros((1, 3)),
        **BOX,
    )
    assert found.converged[0]


def test_huber_is_scipys_and_its_limits():
    r = np.linspace(-3, 3, 61)
    np.testing.assert_allclose(huber(r, 0.7), special.huber(0.7, r), rtol=1e-14)
    np.testing.assert_array_equal(huber(r, np.inf), r**2 / 2)
    # A tiny delta is delta |r|
    np.testing.assert_allclose(huber(r, 1e-9)[r != 0] / 1e-9, np.abs(r[r != 0]), rtol=1e-7)
    assert huber(np.array([1e-3]), 1e-3)[0] == pytest.approx(5e-7, rel=1e-12)


def test_covariance_is_the_textbooks_for_a_line():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 3, 15)
    y = 1.5 - 0.7 * x + rng.normal(0, 0.3, 15)
    X = np.stack([np.ones_like(x), x], axis=1)
    theta = np.linalg.lstsq(X, y, rcond=None)[0]
    covariance, dof = compute_covariance(line(x), theta, y)
    residuals = y - X @ theta
    expected = np.linalg.inv(X.T @ X) * (residuals @ residuals) / 13
    assert dof == 13
    np.testing.assert_allclose(covariance, expected, rtol=1e-12)


def test_covariance_is_curve_fits_where_the_model_is_curved():
    x, y, starts, _ = problem(7, outliers=0)
    found = minimise(decay(x), y, starts, **BOX)
    theta = found.theta[found.best]
    _, theirs = optimize.curve_fit(
        lambda x, a, b, c: a + b * np.exp(-c * x), x, y, p0=theta, ftol=1e-15, xtol=1e-15
    )
    # 1e-5: curve_fit's finite differences
    np.testing.assert_allclose(compute_covariance(decay(x), theta, y)[0], theirs, rtol=1e-5)


def test_covariance_without_freedom_or_with_columns_alike():
    x = np.array([1.0, 2.0])
    covariance, dof = compute_covariance(line(x), np.array([0.0, 1.0]), x)
    assert dof == 0
    assert np.isnan(covariance).all()
    alike = np.full(5, 2.0)
    covariance, dof = compute_covariance(line(alike), np.array([0.0, 1.0]), alike)
    assert dof == 3
    assert np.isinf(covariance).all()


def test_condition_number_is_one_if_orthogonal_and_ignores_units():
    x = np.array([-1.0, 0.0, 1.0])
    assert condition_number(line(x), np.zeros(2)) == pytest.approx(1.0)
    assert condition_number(line(x * 1e9), np.zeros(2)) == pytest.approx(1.0)
    off = np.array([10.0, 11.0, 12.0])
    X = np.stack([np.ones(3), off], axis=1) / np.array([3**0.5, np.linalg.norm(off)])
    assert condition_number(line(off), np.zeros(2)) == pytest.approx(np.linalg.cond(X))
    assert condition_number(line(np.zeros(3)), np.zeros(2)) == np.inf
    assert condition_number(line(np.ones(3)), np.zeros(2)) > 1e14


@pytest.mark.parametrize("wrap", [lambda model: model, exponentiated])
def test_derivatives_of_power_sums_are_central_differences(wrap):
    rng = np.random.default_rng(0)
    terms = [rng.normal(size=(9, 4)) for _ in range(3)]
    model = wrap(power_sum(terms))
    theta = rng.normal(size=(5, 4))
    value, jacobian = model(theta)
    by_hand = np.log(sum(np.exp(theta @ term.T) for term in terms))
    np.testing.assert_allclose(value, by_hand if wrap is not exponentiated else np.exp(by_hand))
    h = 1e-5
    for k in range(4):
        step = np.eye(4)[k] * h
        slope = (model(theta + step)[0] - model(theta - step)[0]) / (2 * h)
        # h^2 for the third derivative, 1e-16 / h for rounding: 1e-9 or so
        np.testing.assert_allclose(jacobian[:, :, k], slope, rtol=1e-7, atol=1e-8)


def test_power_sums_do_not_overflow():
    model = power_sum([np.array([[800.0, 0.0]]), np.array([[0.0, 800.0]])])
    value, jacobian = model(np.array([[1.0, 1.0], [-1.0, -2.0], [1.0, -1.0]]))
    np.testing.assert_allclose(value[:, 0], [800 + np.log(2), -800, 800], rtol=1e-15)
    np.testing.assert_allclose(jacobian[0, 0], [400, 400])
    assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("k", [1, 3, 4])
def test_non_negative_is_scipys(k):
    rng = np.random.default_rng(k)
    A = rng.normal(size=(50, 12, k)) + rng.choice([0.0, 2.0], size=(50, 1, k))
    b = rng.normal(size=(50, 12)) + rng.choice([-1.0, 0.0, 1.0], size=(50, 1))
    gram = A.transpose(0, 2, 1) @ A
    moments = np.einsum("bnk,bn->bk", A, b)
    found = non_negative(gram, moments)
    theirs = np.array([optimize.nnls(A[i], b[i])[0] for i in range(50)])
    assert (found >= 0).all()
    assert (theirs == 0).any()
    # 1e-10: a ridge of 1e-13 on problems of condition 1e2 or so
    np.testing.assert_allclose(found, theirs, rtol=1e-10, atol=1e-10)


def test_non_negative_of_columns_alike_still_fits():
    A = np.ones((6, 2))
    found = non_negative(A.T @ A, A.T @ np.full(6, 3.0))
    # Any split will do; 1e-9 for the ridge of 1e-13
    assert found.sum() == pytest.approx(3.0, rel=1e-9)
    np.testing.assert_array_equal(non_negative(A.T @ A, -A.T @ np.ones(6)), 0.0)


def test_a_parameter_that_moves_no_point_is_no_warning_and_stays_in_its_box():
    """The square of its derivative is 0 in float64, as of a term that ran to nothing."""

    def model(theta):
        moves = np.ones((len(theta), 5, 2)) * np.array([1.0, 1e-170])
        return np.repeat(theta[:, :1], 5, axis=1), moves

    target = np.array([1.0, 2.0, 3.0, 4.0, 6.0])
    box = np.array([[-10.0, -2.0], [10.0, 2.0]])
    found = minimise(model, target, np.zeros((1, 2)), lower=box[0], upper=box[1])
    assert found.theta[0, 0] == pytest.approx(3.2)
    assert -2 <= found.theta[0, 1] <= 2
