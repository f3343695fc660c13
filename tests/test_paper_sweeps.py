"""Paper's sweeps: every point is planned, and each header's claims hold for the plan."""

import re
import shlex
import socket
import sys
from operator import attrgetter

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.config.paths import conf_dir
from experiments.points.planning import make_point
from experiments.run import main

FILES = sorted((conf_dir() / "experiment").glob("paper_*.yaml"))
SIZES = {  # Fig. 1's points, see conf/experiment/paper_isoflop_*.yaml
    "paper_isoflop_6e18": [*range(4, 14)],
    "paper_isoflop_2e19": [*range(7, 15), 16, 18],
}
SQUARES, NORMS = [128**2, 256**2, 512**2, 1024**2], ("none", "batch")
ACTIVE = {32: (2, 4, 8), 64: (2, 4, 8), 128: (4, 8, 16), 256: (4, 8, 16), 512: (8, 16, 32)}
COMMAND = re.compile(r"^#   python -m experiments\.run (.*)$", re.MULTILINE)
COST = re.compile(
    r"Cost: (\d+) runs x \S+ FLOPs = (\S+) FLOPs / \((\S+) x (\S+) FLOP/s\) / 3600 s = (\d+) GPU h"
)
RESULT = re.compile(r"Expected result.*?perplexity.*?\d\d\.\d\d", re.DOTALL)


def header(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("defaults:")[0]


@pytest.fixture(scope="module")
def plan():
    """plan("paper_experts"): the points of all the commands in that file's header, no network."""
    plans = {}

    def refuse(self, address):
        raise AssertionError(f"planning connects to {address}")

    def points(name):
        if name not in plans:
            commands = COMMAND.findall(header(name))
            plans[name] = [p for c in commands for p in composed(shlex.split(c))]
        return plans[name]

    def composed(arguments):
        raws = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", refuse)
            patch.setattr(
                "experiments.sweep.many_runs.run_sweep",
                lambda some, _, place: raws.extend(some) or [],
            )
            patch.setattr(sys, "argv", ["experiments.run", *arguments])
            GlobalHydra.instance().clear()
            main()
            return [make_point(raw) for raw in raws]

    return points


def test_the_sweeps_are_there():
    assert {path.stem for path in FILES} == {
        "paper_active", "paper_experts", "paper_query_norm", *SIZES
    }  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_header_has_commands_the_plans_cost_and_the_papers_result(plan, name):
    assert RESULT.search(header(name))
    points = plan(name)
    n_runs, flops, share, peak, hours = COST.search(header(name)).groups()
    planned = sum(p.plan.planned_flops for p in points)
    assert int(n_runs) == len(points)
    assert float(flops) == pytest.approx(planned, rel=0.01)
    rate = float(share) * float(peak)
    assert float(hours) == pytest.approx(planned / rate / 3600, rel=0.05)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_the_points_are_distinct_runs_of_the_papers_setting(plan, name):
    points = plan(name)
    assert len({p.run_id for p in points}) == len(points)
    for point in points:
        config = point.config
        assert config.sweep == name
        assert (config.ladder.name, config.ladder.batch_size, config.data.seq_len) == (
            "paper", 128, 2048
        )  # fmt: skip
        assert config.data.streaming
        assert set(config.eval) == {"lambada", "pile", "curation", "wikitext103", "c4"}
        layers = [i for i, ffn in enumerate(point.transformer.ffns) if ffn is config.model]
        assert len(layers) == 1 or config.model_name == "dense"


@pytest.mark.parametrize("name", SIZES)
def test_isoflop_sizes_are_those_of_the_figure(plan, name):
    by_model = {}
    for point in plan(name):
        by_model.setdefault(point.config.model_name, []).append(point)
        assert point.config.budget == float(name.rpartition("_")[2])
        if point.config.model_name == "dense":  # the fit of test_costs.py
            n_layers, d = point.config.size, point.transformer.d_model
            expected = 12.009 * n_layers * d**2 + 32_524 * d
            assert point.plan.cost.n_params == pytest.approx(expected, rel=0.01)
    sizes = {model: [p.config.size for p in points] for model, points in by_model.items()}
    assert sizes == dict.fromkeys(("dense", "moe", "pkm", "peer"), SIZES[name])
    assert {p.config.n_experts for p in by_model["moe"]} == {128}
    for model, top_k in (("pkm", 32), ("peer", 16)):
        layers = {(p.config.n_experts, p.config.model.n_heads) for p in by_model[model]}
        assert layers == {(1024**2, 8)}
        assert {(p.config.model.top_k, p.config.model.query_norm) for p in by_model[model]} == {
            (top_k, "batch")
        }


ASKED = [  # a sweep, fields of its points, and all that they are
    ("experts", "model_name n_experts", {(m, n) for m in ("pkm", "peer") for n in SQUARES}),
    ("active", "model.n_heads model.top_k", {(h, hk // h) for hk in ACTIVE for h in ACTIVE[hk]}),
    ("active", "model_name n_experts", {("peer", 1024**2)}),
    ("query_norm", "n_experts model.query_norm", {(n, q) for n in SQUARES for q in NORMS}),
    ("query_norm", "model_name model.n_heads model.top_k", {("peer", 8, 16)}),
    *((name, "size budget", {(8, 6e18)}) for name in ("experts", "active", "query_norm")),
]


@pytest.mark.parametrize(("name", "fields", "expected"), ASKED)
def test_a_sweep_asks_for_what_the_paper_shows(plan, name, fields, expected):
    values = attrgetter(*fields.split())
    assert {values(point.config) for point in plan(f"paper_{name}")} == expected


def test_parameters_are_those_of_the_figure(plan):
    peer = [p for p in plan("paper_experts") if p.config.model_name == "peer"]
    found = {p.config.n_experts: p.plan.cost.n_params for p in peer}
    for n, n_params in zip(SQUARES, (160e6, 260e6, 663e6, 2.27e9)):  # read off Fig. 3a
        assert found[n] == pytest.approx(n_params, rel=0.01)


def test_what_two_sweeps_share_is_one_run(plan):
    """The headers say that such a folder can be copied from sweep to sweep."""
    ids = {name: {p.run_id for p in plan(name)} for name in (path.stem for path in FILES)}
    assert len(ids["paper_experts"] & ids["paper_isoflop_6e18"]) == 2
    assert len(ids["paper_active"] & ids["paper_isoflop_6e18"]) == 1
    assert len(ids["paper_query_norm"] & ids["paper_experts"]) == 4
