"""Finished runs that others start from, are exported, or become adapters of a library."""

from experiments.sweep.one_run import run_one
from tests.soak.points import Points
from tests.soak.processes import Process, call
from tests.soak.stage import PATIENCE

_STEPS = 20
_PEER = ("model=peer", "n_experts=64", "model.d_key=8", "model.top_k=4")
PARENTS = {  # name -> overrides, and the run that it starts from
    "base": (("model=dense",), None),
    "peer": (_PEER, None),
    "sea": (("init.how=keep", "init.train=lora", "init.lora_rank=4"), "base"),
    "farm": (("init.how=keep", "init.train=lora", "init.lora_rank=4"), "base"),
}


def make(points: Points) -> None:
    """Trains those that are missing; all are in points.parents then."""
    results = points.folder / "parents"
    for name, (overrides, parent) in PARENTS.items():
        raw = points.raw(*overrides, n_steps=_STEPS, parent=parent)
        if parent is not None:
            corpus = {"_target_": "tests.training.domains.Words", "domain": name}
            raw = {**raw, "data": {**raw["data"], "corpus": corpus}}
        case = points.case_of(raw, name)
        folder = points.parents[name] = case.run_dir(results)
        if not (folder / "record.json").exists():
            output = results / f"{name}.txt"
            code = Process(call(run_one, case.placed(results, points.data)), output).wait(PATIENCE)
            if code:
                raise RuntimeError(f"{name} ends with {code}: {output.read_text()}")
