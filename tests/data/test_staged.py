"""What a stage of a stream trains on: a function of (stages, seed, step), written out here."""

import numpy as np
import pytest

from experiments.data.staged import Stage, StagedBatches
from tests.data.conftest import packed

SEQ, BATCH, SEED = 4, 6, 7
SIZES = {"sea": 10, "farm": 7, "town": 5, "old": 9}  # in windows
FIRST = {"sea": 0, "farm": 100, "town": 200, "old": 300}  # token of a text; no two are alike


@pytest.fixture
def texts(tmp_path):
    return {
        name: packed(tmp_path / name, FIRST[name] + np.arange(SEQ * n + 1))
        for name, n in SIZES.items()
    }


@pytest.fixture
def at(texts):
    """at([("sea",), ...], steps, step): the tokens of the batch that begins at the step."""

    def tokens(names, steps, step, shares=(1.0,), replay=0.0, **place):
        stages = [
            Stage(n_steps=n, sources=[texts[name] for name in own], shares=shares)
            for own, n in zip(names, steps, strict=True)
        ]
        old = texts["old"] if replay else None
        batches = StagedBatches(
            stages, old, replay, seq_len=SEQ, batch_size=BATCH, seed=SEED, start_step=step, **place
        )
        return next(iter(batches)).tokens.tolist()

    return tokens


def row(name, window):
    """A window has a token more than it predicts from."""
    start = FIRST[name] + SEQ * window
    return list(range(start, start + SEQ + 1))


def in_epochs(name, seed, local):
    """Windows of a step of a stage: shuffled epochs, each in its own order, back to back."""
    n = SIZES[name]
    places = range(local * BATCH, (local + 1) * BATCH)
    orders = [np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(10)]
    return [row(name, int(orders[place // n][place % n])) for place in places]


@pytest.mark.parametrize(
    ("step", "name", "k", "local"),
    [
        (0, "sea", 0, 0),
        (2, "sea", 0, 2),
        (3, "farm", 1, 0),
        (4, "farm", 1, 1),
        (5, "town", 2, 0),
        (8, "town", 2, 3),
        (9, "town", 2, 4),  # after the end it goes on
        (12, "town", 2, 7),
    ],
)
def test_each_stage_has_shuffled_epochs_of_its_own_from_its_first_step_on(at, step, name, k, local):
    found = at([("sea",), ("farm",), ("town",)], (3, 2, 4), step)
    assert found == in_epochs(name, SEED + k, local)


def draws(step, replay, n_sources, shares):
    """Which rows are old, which source the others are of, and the place in the text."""
    rng = np.random.default_rng([SEED, 1, step])
    is_old = rng.random(BATCH) < replay
    return is_old, rng.choice(n_sources, BATCH, p=shares), rng.random(BATCH)


@pytest.mark.parametrize("step", [0, 3, 4, 6])
def test_old_text_takes_places_and_leaves_the_others_as_they_were(at, step):
    found = at([("sea",), ("farm",)], (3, 4), step, replay=0.4)
    name, k, local = ("sea", 0, step) if step < 3 else ("farm", 1, step - 3)
    is_old, _, places = draws(step, 0.4, 1, [1.0])
    expected = [
        row("old", int(place * SIZES["old"])) if old else new
        for old, place, new in zip(is_old, places, in_epochs(name, SEED + k, local), strict=True)
    ]
    assert found == expected


@pytest.mark.parametrize("step", [0, 1, 5])
def test_sources_of_one_stage_are_drawn_by_their_shares(at, step):
    shares = (0.7, 0.2, 0.1)
    found = at([("sea", "farm", "town")], (9,), step, shares, replay=0.3)
    expected = []
    for old, which, place in zip(*draws(step, 0.3, 3, shares), strict=True):
        name = "old" if old else ("sea", "farm", "town")[which]
        expected.append(row(name, int(place * SIZES[name])))
    assert found == expected


def test_shares_and_all_windows_come_up_as_often_as_they_should(at):
    """Of 1,200 rows: within five standard errors. 0.3 are old, and of the others 0.7 are of sea."""
    rows = [r for s in range(200) for r in at([("sea", "farm")], (9,), s, (0.7, 0.3), replay=0.3)]
    firsts = np.array(rows)[:, 0]
    for name, share in (("old", 0.3), ("sea", 0.7 * 0.7), ("farm", 0.7 * 0.3)):
        own = firsts[(firsts >= FIRST[name]) & (firsts < FIRST[name] + 100)]
        assert len(own) == pytest.approx(1200 * share, abs=5 * np.sqrt(1200 * share * (1 - share)))
        assert sorted(set(own)) == [FIRST[name] + SEQ * w for w in range(SIZES[name])]


def test_ranks_share_a_batch_row_by_row(at):
    how = {
        "names": [("sea", "farm")],
        "steps": (9,),
        "step": 2,
        "shares": (0.5, 0.5),
        "replay": 0.3,
    }
    whole = at(**how)
    assert [at(**how, rank=r, world_size=3) for r in range(3)] == [whole[r::3] for r in range(3)]
