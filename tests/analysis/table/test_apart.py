"""No run of another kind is merged into a row of a law, and what is merged is said."""

import numpy as np
import pandas as pd
import pytest

from analysis.experts.compare import compare_laws
from analysis.surfaces.models import compare_surfaces_of_models, rows_of_models
from analysis.table.apart import rows_apart
from analysis.table.load import check_table


def made(**columns) -> pd.DataFrame:
    """Runs of four sizes by four token counts."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e9, 4), np.geomspace(1e9, 3e10, 4)))
    frame = pd.DataFrame({"n_params": N, "n_tokens": D, "loss": 1.7 + 400 / N**0.34 + 400 / D**0.3})
    return frame.assign(**columns)


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return check_table(pd.concat(frames, ignore_index=True))


def test_runs_of_other_unique_tokens_are_rows_of_their_own():
    table = together(*(made(unique_tokens=made()["n_tokens"] / k) for k in (1, 2, 4)))
    assert table["epochs"].tolist() == (table["n_tokens"] / table["unique_tokens"]).tolist()
    (rows,) = rows_of_models(table, "n_params", None).values()
    assert len(rows.cells) == 48
    assert rows.warnings == ()
    (only,) = rows_of_models(table, "n_params", None, ["chinchilla"]).values()
    assert len(only.cells) == 16
    assert "they differ in unique_tokens" in only.warnings[0]


def test_passes_over_the_data_say_how_many_tokens_are_unique():
    table = together(made(epochs=4.0))
    assert table["unique_tokens"].to_numpy() == pytest.approx(table["n_tokens"].to_numpy() / 4)
    assert together(made(epochs=0.5))["unique_tokens"].equals(table["n_tokens"])


def test_more_unique_tokens_than_tokens_are_refused_with_the_swap():
    frame = made().rename(columns={"n_tokens": "tokens"}).assign(unique_tokens=1e12)
    with pytest.raises(ValueError, match=r"'n_tokens': 'unique_tokens', 'unique_tokens': 'tokens'"):
        check_table(frame)
    swapped = {"n_tokens": "unique_tokens", "unique_tokens": "tokens"}
    assert (check_table(frame, columns=swapped)["n_tokens"] == 1e12).all()
    with pytest.raises(ValueError, match="must be above 0"):
        check_table(made(unique_tokens=0.0))


def test_a_run_that_stops_some_steps_early_is_of_one_pass():
    table = check_table(made(unique_tokens=made()["n_tokens"] * 1.01))
    assert (table["epochs"] == 1).all()


@pytest.mark.parametrize("name", ["router", "corpus"])
def test_a_text_that_differs_is_named_and_never_merged(name):
    table = together(*(made(**{name: value}) for value in "ab"))
    rows = rows_apart(table, ["n_params", "n_tokens"])
    assert len(rows.cells) == 32
    assert rows.warnings[0].startswith(f"runs that differ in {name} are of one law here")


def test_runs_that_nothing_tells_apart_each_count():
    table = together(made(), made().assign(loss=made()["loss"] + 0.01))
    rows = rows_apart(table, ["n_params", "n_tokens"])
    assert len(rows.cells) == 32
    assert rows.warnings == (
        "16 runs that no column tells from others: each is a row, as of another seed",
    )


def test_the_best_rate_and_batch_count_and_batches_are_said():
    rates = together(*(made(lr=lr).assign(loss=made()["loss"] + lr) for lr in (0.1, 0.2)))
    found = rows_apart(rates, ["n_params", "n_tokens"])
    assert (len(found.cells), found.warnings) == (16, ())
    assert (found.cells["lr"] == 0.1).all()
    batches = together(*(made(lr=0.1, bs=b).assign(loss=made()["loss"] + b) for b in (0.1, 0.2)))
    found = rows_apart(batches, ["n_params", "n_tokens"])
    assert len(found.cells) == 16
    assert "they differ in bs, and the lowest loss counts" in found.warnings[0]


def test_results_carry_what_loading_says():
    routers = together(*(made(router=value) for value in "ab"))
    found, _ = compare_surfaces_of_models(
        routers, "n_params", None, forms=["chinchilla"], n_draws=0
    )
    assert any("differ in router" in text for text in found["model"].warnings)
    experts = together(
        *(made(n_experts=E, n_active_params=made()["n_params"], router=r)
          for r in "ab" for E in (2, 4, 8))
    )  # fmt: skip
    compared = compare_laws(experts.assign(n_tokens=1e9), ["power_floor"], n_draws=0)
    assert compared.n_points > 12
    assert any("differ in router" in text for text in compared.warnings)
