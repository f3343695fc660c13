"""Points composed by what they share, against Hydra's own composition of each."""

import json
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from experiments.config import composition, template
from experiments.config.composed import resolve
from experiments.config.composition import Composer
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
    ["model=dense", "size=2", "seed=3", "optim.lr=0.5"],  # in place of a link
    ["model=dense", "size=2", "sweep=${optim.beta2}", "ladder.lr=${optim.beta1}"],
    ["model=peer", "size=2", "n_experts=1024", "model.n_experts=4096"],
    ["init=run", "init.path=results/x"],
    ["model=dense", "size=???"],
]
SINGLE = [
    [f"model={model}", f"size={size}", f"ladder.lr={lr}", f"ladder.vocab_size={n}", f"seed={seed}"]
    for seed in (0, 1)
    for size in (2, 3)
    for model in ("dense", "stem")
    for lr, n in (("1e-3", 512), ("law", 1024))
]


def _both(points):
    """Resolved points, by Hydra whole and composed by what they share."""
    with composing():
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        expected = [resolve(loader.load_sweep_config(master, list(point))) for point in points]
        found = dict(Composer(loader, master).compose(points))
    return [found[i].raw for i in range(len(points))], expected


def test_composed_points_are_hydras():
    found, expected = _both(POINTS)
    # as text: 1 is not 1.0, and the order of keys is that of records
    assert list(map(json.dumps, found)) == list(map(json.dumps, expected))


def test_points_of_single_values_ask_no_omegaconf(monkeypatch):
    refused = SimpleNamespace(deepcopy=lambda config: pytest.fail("a config was copied"))
    monkeypatch.setattr(template, "copy", refused)
    found, expected = _both(SINGLE)
    assert list(map(json.dumps, found)) == list(map(json.dumps, expected))
    assert {raw["optim"]["lr"] for raw in found} == {1e-3, "law"}
    assert {raw["data"]["tokenizer"]["vocab_size"] for raw in found} == {512, 1024}


def test_no_two_points_share_what_can_change():
    found, _ = _both(SINGLE[:2])

    def parts(node):
        if isinstance(node, (dict, list)):
            yield id(node)
            for one in node.values() if isinstance(node, dict) else node:
                yield from parts(one)

    assert not {*parts(found[0])} & {*parts(found[1])}


def test_a_key_that_no_config_has_is_refused_as_by_hydra():
    with composing():
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        with pytest.raises(ConfigCompositionException, match=r"Could not override 'sizes'"):
            list(Composer(loader, master).compose([["sizes=2"]]))


def test_choices_are_composed_once_and_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(composition, "_FAMILIES", 2)
    loaded, a, b, c = [], ["a/b=1"], ["a/b=2"], ["a/b=3"]
    monkeypatch.setattr(Composer, "_load_family", lambda self, choices: loaded.append(choices))
    composer = Composer(None, None)
    for choices in (a, b, a, c, a, b):
        composer._family((*choices,))
    assert loaded == [(*a,), (*b,), (*c,), (*b,)]
    assert composition._parsed.cache_info().maxsize == 4096
