"""Plan's line on how many processes could share the columns of tables."""

import pytest

from experiments.points.parts.table_choice import TableChoice, choices
from experiments.points.planning import make_point
from experiments.points.table_shares import cheapest, fits
from tests.conftest import TINY

PEER = ("model=peer", "model.d_key=8", "model.n_heads=2", "model.top_k=4", "n_experts=4096")
FOUR = (*TINY, *PEER, "size=4", "budget=1e12", "trainer.devices=4")


def line_of(point):
    """Part's, without its heading; None: it says nothing."""
    found = [p.plan_line(point) for p in point.parts if isinstance(p, TableChoice)]
    return next((line[1] for line in found if line is not None), None)


def test_each_number_has_the_plan_that_it_would_have(compose_raw):
    point = make_point(compose_raw(*FOUR))
    found = choices(point)
    assert [share.n_ranks for share in found] == [1, 2, 4]
    for share, given in zip(found, ("null", "2", "all"), strict=True):
        chosen = make_point(compose_raw(*FOUR, f"trainer.table_ranks={given}"))
        assert chosen.run_id == point.run_id
        assert share.memory == chosen.plan.memory
        assert choices(chosen) == found
    assert found[0].sent == {}
    assert set(found[2].sent) == {"all-gather", "all-to-all"}
    assert set(found[1].sent) > set(found[2].sent)  # and replicas
    assert found[1].memory.weights > found[2].memory.weights
    best = min(found, key=lambda share: share.n_sent)
    assert cheapest(point, found) == best
    line = line_of(point)
    assert line.startswith(f"null {found[0].memory.total / 2**30:.3g} GiB, ")
    assert f": {best.n_ranks} sends least of those that fit" in line


def test_the_shortest_step_of_those_that_fit_a_card(compose_raw):
    def planned(*more):
        point = make_point(compose_raw(*FOUR, "cluster=h100", *more))
        return point, choices(point), line_of(point)

    point, found, line = planned()
    seconds = [share.seconds for share in found]
    assert all(s > 0 for s in seconds)
    assert cheapest(point, found).seconds == min(seconds)
    assert f"{1e3 * seconds[1]:.3g} ms" in line
    assert "has the shortest step of those that fit 79.1 GiB" in line
    sizes = [share.memory.total for share in found]
    assert sizes == sorted(sizes, reverse=True)
    between = (sizes[1] + sizes[2]) / 2 / 2**30
    point, found, line = planned(f"cluster.memory_gib={between}")
    assert [fits(point, share) for share in found] == [False, False, True]
    assert cheapest(point, found).n_ranks == 4
    assert line.count("(too large)") == 2
    assert ": 4 has the shortest step" in line
    _, found, line = planned("cluster.memory_gib=0.1")
    assert line.endswith("none of them fits 0.1 GiB")


@pytest.mark.parametrize(
    "given",
    [
        ("model=dense",),
        ("model=engram",),
        (*PEER, "kernel=reference"),
        (*PEER, "trainer.devices=1"),
    ],
)
def test_without_a_choice_nothing_is_said(compose_raw, given):
    base = [o for o in FOUR if o not in PEER]
    assert line_of(make_point(compose_raw(*base, *given))) is None


def test_what_the_settings_rule_out_is_no_choice(compose_raw):
    given = ("optim.table_gradient=fused", "optim.grad_clip=null", "trainer.table_ranks=all")
    assert [s.n_ranks for s in choices(make_point(compose_raw(*FOUR, *given)))] == [4]
    given = ("optim.table_gradient=rows", "trainer.table_ranks=all")
    assert [s.n_ranks for s in choices(make_point(compose_raw(*FOUR, *given)))] == [2, 4]
