"""A LoRA run as a folder of peft: on the base as transformers loads it, it is the run."""

import json

import pytest
import torch

from experiments import export
from experiments.adapters import lora_library, read_lora
from experiments.export import export_adapter, export_run
from experiments.finished.model import read_finished
from experiments.points.planning import make_point
from experiments.training.execute import execute
from tests.conftest import SMALL_PEER, TINY, run_cache
from tests.rounding import assert_rounding

SHAPE = ("ladder.d_per_layer", "ladder.d_head", "ladder.vocab_size")  # the weights say these
ROOMS = tuple(o for o in TINY if not o.startswith(SHAPE))
BASES = {
    "LlamaForCausalLM": ("model=dense", "model.glu=true", "+trunk.base_ffn.glu=true"),
    "ArceeForCausalLM": ("model=dense",),
    "ExpertsForCausalLM": SMALL_PEER,
}


@pytest.fixture(params=BASES)
def made(request, trained, compose_raw, tmp_path):
    """Base's class, its run, and a run with an adapter that was trained from it."""
    run_dir = trained(*BASES[request.param])
    cache = run_cache(run_dir)
    point = make_point(
        compose_raw(
            "init=run", f"init.path={run_dir}", "init.how=keep", "init.train=lora",
            "init.lora_rank=4", "budget=3e9", "ladder.lr=0.05", *ROOMS, cache,
            f"paths.results={tmp_path / 'results'}",
        )
    )  # fmt: skip
    assert execute(point).status == "done"
    return request.param, run_dir, point.run_dir


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.usefixtures("hub_modules")
def test_peft_reads_it_and_its_logits_are_the_run_s(made, tmp_path, command):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    kind, base_dir, run_dir = made
    cache = run_cache(base_dir)
    assert export_run(base_dir, tmp_path / "base", [cache]).architecture == kind
    code, out, _ = command(export, run_dir, tmp_path / "lora", "form=peft", "base=me/base", cache)
    assert code == 0
    assert "lora: a LoRA of rank 4 beside " in out
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", trust_remote_code=kind.startswith("Experts")
    ).eval()
    _, vocabulary, trained_model = read_finished(run_dir, [cache])
    ids = torch.randint(3, vocabulary.n_entries, (2, 30))
    with torch.no_grad():
        before = base(ids, use_cache=False).logits
        model = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
        found, expected = model(ids, use_cache=False).logits, trained_model(ids)
    assert_rounding(found, expected, n_blocks=2)
    assert not torch.allclose(found, before, atol=1e-2)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"
    assert 'base_model: "me/base"\n' in (tmp_path / "lora" / "README.md").read_text()
    names = {path.rpartition(".")[2] for path in config["target_modules"]}
    assert ("q_proj" in names) == (kind != "ExpertsForCausalLM")
    lora = read_lora(tmp_path / "lora")  # and a library of ours takes it, on theirs too
    model.unload()
    library = lora_library([lora])
    fresh = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", trust_remote_code=kind.startswith("Experts")
    ).eval()
    library.attach(fresh)
    library.use("lora")
    with torch.no_grad():
        assert_rounding(fresh(ids, use_cache=False).logits, expected, n_blocks=2)


@pytest.mark.long
def test_it_is_replaced_by_its_own_run_alone_and_what_has_no_adapter_is_refused(
    trained, compose_raw, tmp_path, command
):
    base = trained("model=dense")
    cache = run_cache(base)
    with pytest.raises(ValueError, match="is a run without adapters; train one with"):
        export_adapter(base, tmp_path / "none", [cache])
    point = make_point(
        compose_raw(
            "init=run", f"init.path={base}", "init.how=keep", "init.train=lora", "budget=2e9",
            *ROOMS, cache, f"paths.results={tmp_path / 'results'}",
        )
    )  # fmt: skip
    assert execute(point).status == "done"
    for _ in range(2):
        export_adapter(point.run_dir, tmp_path / "lora", [cache])
    with pytest.raises(ValueError, match=f"is an export of the run {point.run_id}@form=peft; name"):
        export_run(point.run_dir, tmp_path / "lora", [cache])
    for words, why in (
        (["form=onnx"], "form=onnx must be model or peft"),
        (["base=x"], "base= is of form=peft; leave it out"),
        (["form=peft", "patch=x"], "patch= edits experts, and form=peft has none"),
    ):
        code, _, err = command(export, point.run_dir, tmp_path / "other", *words, cache)
        assert (code, why in err) == (2, True)
    assert not (tmp_path / "other").exists()
