"""Points composed by what they share, against Hydra's own composition of each."""

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments.config.composition import compose_points
from experiments.config.hydra_version import composing

POINTS = [
    ["model=dense", "size=2"],
    ["model=peer", "size=2", "n_experts=1024"],
    ["model=peer", "size=3", "n_experts=4096", "model.top_k=4"],
    ["model=dense", "size=3", "+data.corpus.note=x", "~data.corpus.sha256"],
    ["size=4", "ladder=paper", "model=moe", "optim.grad_clip=null"],
    ["experiment=demo", "model=pkm", "seed=1"],
    ["data=packages", "data.corpus.weights={wikitext2: 2}"],
    ["eval=[wikitext2,lambada]", "evaluation.stride=64"],
    ["model=dense", "size=2", "seed=3", "ladder.lr=0.5"],
]


def test_composed_points_are_hydras():
    with composing():
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        expected = [loader.load_sweep_config(master, list(point)) for point in POINTS]
        found = list(compose_points(loader, master, POINTS))
    for one, other in zip(found, expected, strict=True):
        assert _without_overrides(one) == _without_overrides(other)


def _without_overrides(config):
    plain = OmegaConf.to_container(config)
    for name in ("overrides", "job"):  # these lack a point's values, as compose_points says
        del plain["hydra"][name]
    return plain
