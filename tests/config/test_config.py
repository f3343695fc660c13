import pytest

from experiments.config.paths import conf_dir
from experiments.config.run_config import read_run_config
from experiments.init.completion import completed
from experiments.points.planning import make_point


def test_every_model_composes_on_every_ladder(compose_raw):
    ladders = {path.stem for path in (conf_dir() / "ladder").glob("*.yaml")}
    for ladder in ladders - {"weights"}:  # which goes with init alone
        for model in (p.stem for p in (conf_dir() / "model").glob("[!w]*.yaml")):  # as weights
            config = read_run_config(compose_raw(f"model={model}", f"ladder={ladder}"))
            assert config.model_name == model
            assert config.ladder.name == ladder


# from runs that other experiments train first
GO_ON = ("growth", "lifelong", "lifelong_facts", "lifelong_setting", "lifelong_tuning")


@pytest.mark.parametrize("path", sorted((conf_dir() / "experiment").glob("*.yaml")))
def test_every_experiment_composes(path, compose_raw):
    # the points of these each have a model, or keep the weights' own layer
    model = ("model=dense",) if path.stem in ("retrofit", "retrofit_tuning") else ()
    raw = compose_raw(f"experiment={path.stem}", *model)
    if path.stem in GO_ON:
        first = "growth_parents" if path.stem == "growth" else "lifelong_base"
        with pytest.raises(ValueError, match=rf"has no .* train it first: .* experiment={first}$"):
            completed(raw)
    else:
        read_run_config(completed(raw))


def test_an_unset_n_experts_is_the_models_own(compose_raw):
    paper = {
        m: compose_raw(f"model={m}", "ladder=paper")["n_experts"] for m in ("moe", "pkm", "peer")
    }
    assert paper == {"moe": 128, "pkm": 1024**2, "peer": 1024**2}
    assert compose_raw("model=peer")["n_experts"] == 4096
    raw = compose_raw("model=peer", "n_experts=64")
    assert read_run_config(raw).model.n_experts == 64
    assert compose_raw("model=dense")["n_experts"] is None


def test_the_id_is_of_what_changes_the_result(compose_raw):
    def id_of(*overrides):
        return make_point(compose_raw("model=peer", "budget=1e13", *overrides)).run_id

    same = id_of()
    assert same == id_of() == id_of("n_experts=4096")  # the default, given explicitly
    for outside in (
        "paths.results=/elsewhere",
        "sweep=other",
        "logger=csv",
        "trainer.n_threads=1",
        "dry_run=true",
        "eval=[wikitext2,validation]",
        "evaluation.stride=64",
    ):
        assert id_of(outside) == same, outside
    for inside in (
        "seed=1",
        "n_experts=1024",
        "optim.table_lr=3",
        "size=3",
        "budget=2e13",
        "tokenizer=gpt2",
        "ladder.vocab_size=4096",
        "data.mask_documents=true",
        "data.max_train_tokens=1000000",
    ):
        assert id_of(inside) != same, inside
    assert len(same) == 12
