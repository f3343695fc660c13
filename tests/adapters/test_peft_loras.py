"""Adapters that peft has made: outputs are the same; what is no plain LoRA is refused."""

import json
import re
import warnings
from functools import partial

import pytest
import torch

from experiments.adapters import LoRA, LowRank, lora_library, read_lora
from tests.adapters.small import adapter, path_of, tokens, write_peft
from tests.init.tiny import tiny
from tests.rounding import assert_rounding

peft = pytest.importorskip("peft")
pytestmark = [
    # of peft's own code: names of adapters that "lora_" contains, and an attribute's new name
    pytest.mark.filterwarnings("ignore:Adapter name:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
SPECS = {  # name: what LoraConfig is given
    "a": {"r": 4, "lora_alpha": 8},
    "b": {"r": 2, "lora_alpha": 5, "use_rslora": True},
    "c": {"r": 8, "lora_alpha": 3},
    "d": {"r": 4, "lora_alpha": 8, "rank_pattern": {"c_proj|down_proj|dense": 6},
          "alpha_pattern": {"c_proj|down_proj|dense": 11}},
}  # fmt: skip
TARGETS = {
    "Llama": {"a": ["q_proj", "down_proj"], "b": ["down_proj"], "c": ["v_proj", "gate_proj"],
              "d": ["down_proj", "o_proj"]},
    "GPT2": {"a": ["c_attn", "c_proj"], "b": ["c_fc"], "c": ["c_proj"], "d": ["c_proj"]},
    "GPTNeoX": {"a": ["query_key_value"], "b": ["dense_4h_to_h"], "c": ["dense_h_to_4h"],
                "d": ["dense", "dense_h_to_4h"]},
}  # fmt: skip


def logits(of, ids):
    """In float64, so that errors are the adapters' own, and not those of three blocks."""
    with torch.no_grad():
        return of.double()(ids).logits


def in_library(folder, names):
    return lora_library([_double(read_lora(folder / name)) for name in names])


def _double(lora):
    maps = {p: LowRank(down=m.down.double(), up=m.up.double()) for p, m in lora.maps.items()}
    return LoRA(name=lora.name, base=lora.base, maps=maps)


def away(found, expected, base):
    """Error, relative to what the adapter changes."""
    return float((found - expected).norm() / (expected - base).norm())


@pytest.fixture(params=TARGETS)
def theirs(request, tmp_path):
    """Family, peft's model with four random adapters, and the folder they are saved in."""
    model, wrapped = tiny(request.param), None
    torch.manual_seed(0)
    for name, values in SPECS.items():
        config = peft.LoraConfig(
            target_modules=TARGETS[request.param][name],
            init_lora_weights=False,
            fan_in_fan_out=request.param == "GPT2",
            **values,
        )
        if wrapped is None:
            wrapped = peft.get_peft_model(model, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
    wrapped.save_pretrained(tmp_path)
    return request.param, wrapped.eval(), tmp_path


def test_one_adapter_s_output_is_peft_s(theirs):
    kind, wrapped, folder = theirs
    ids, base = tokens(), tiny(kind)
    library = in_library(folder, SPECS)
    assert library.names == tuple(SPECS)
    before = logits(base, ids)
    library.attach(base)
    for name in SPECS:
        wrapped.set_adapter(name)
        library.use(name)
        expected = logits(wrapped, ids)
        assert away(logits(base, ids), expected, before) <= 1e-6


@pytest.mark.parametrize("theirs", ["Llama"], indirect=True)  # whose adapters have the same maps
def test_weighted_sums_are_peft_s_concatenations(theirs):
    kind, wrapped, folder = theirs
    torch.manual_seed(1)
    for name in ("e", "f"):
        wrapped.add_adapter(
            name,
            peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"],
                            init_lora_weights=False),
        )  # fmt: skip
    wrapped.add_weighted_adapter(["a", "e", "f"], [0.7, 0.3, 1.5], "sum", combination_type="cat")
    wrapped.save_pretrained(folder)
    wrapped.set_adapter("sum")
    ids, base = tokens(), tiny(kind)
    library = in_library(folder, "aef")
    library.attach(base)
    library.mix({"a": 0.7, "e": 0.3, "f": 1.5})
    found = logits(base, ids)
    library.use()
    assert away(found, logits(wrapped, ids), logits(base, ids)) <= 1e-6


def arrows(loras, n_steps):
    """Outputs of three adapters beside one map by our Arrow, and by peft's, whose prototypes
    are by so many steps of power iteration.
    """
    library = lora_library(loras)
    layer = peft.tuners.lora.arrow.ArrowLoraLinearLayer(32, _arrow_config(["x", "y", "z"]))
    layer.top_right_singular_vec_from_BA = partial(
        layer.top_right_singular_vec_from_BA, iters=n_steps
    )
    path, x = (
        path_of(1, "q_proj"),
        torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)),
    )
    a, b = {}, {}
    for name in "xyz":
        low_rank = library.adapter(name).maps[path]
        rank = len(low_rank.down)
        a[name] = torch.nn.Linear(32, rank, bias=False)
        b[name] = torch.nn.Linear(rank, 32, bias=False)
        a[name].weight.data = low_rank.down.float()
        b[name].weight.data = low_rank.up.T.float()
    layer.build_prototypes(a, b)
    with torch.no_grad():
        expected = layer(x, a, b, torch.nn.Identity(), dict.fromkeys("xyz", 1.0))
    base = tiny("Llama")
    library.attach(base)
    library.arrow(top_k=2, temperature=0.7)
    linear = base.get_submodule(path)
    with torch.no_grad():
        return linear(x) - torch.nn.functional.linear(x, linear.weight), expected


def test_our_arrow_is_peft_s_where_its_power_steps_converge():
    """What is left after n of them is (s2 / s1)^2n, of the two largest singular values: 15 steps,
    peft's own, are enough for these.
    """
    ours, theirs = arrows([_steep(name, i) for i, name in enumerate("xyz")], n_steps=15)
    assert_rounding(ours, theirs, n_blocks=1)


def test_on_flat_spectra_our_arrow_is_peft_s_with_more_steps():
    """Ours are by a singular value decomposition, whatever the spectrum."""
    flat = [adapter(name, 4, ("q_proj",), (1,), seed=i) for i, name in enumerate("xyz")]
    ours, theirs = arrows(flat, n_steps=3000)
    assert_rounding(ours, theirs, n_blocks=1)
    _, early = arrows(flat, n_steps=15)
    assert (ours - early).norm() > 0.05 * ours.norm()


def _steep(name, seed):
    lora = adapter(name, 3, ("q_proj",), blocks=(1,), seed=seed)
    for low_rank in lora.maps.values():
        low_rank.up.mul_(torch.tensor([[3.0], [0.3], [0.1]]))
    return lora


def _arrow_config(names):
    config = peft.tuners.lora.config.ArrowConfig(top_k=2, router_temperature=0.7, rng_seed=0)
    config.task_adapter_names = list(names)
    return config


REFUSED = [
    ({"peft_type": "IA3"}, "peft_type=IA3 is not LORA"),
    ({"bias": "all"}, "the adapter has biases"),
    ({"use_dora": True}, "use_dora means DoRA's magnitudes"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save means trained copies of whole modules"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_is_more_than_a_lora_is_refused(config, message, tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2), **config)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_lora(folder)


@pytest.mark.filterwarnings("ignore:.*changes the base weights of the model:UserWarning")
@pytest.mark.parametrize("start", ["pissa", "olora", "PISSA_niter_4"])
def test_an_adapter_whose_start_moved_the_base_is_read_in_its_plain_form_alone(start, tmp_path):
    """peft takes what such an adapter begins with out of the base's weights."""
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=start.lower()
    )
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(tiny("Llama"), config).eval()
    config.init_lora_weights = True  # as peft's guide has it for the first form
    wrapped.save_pretrained(tmp_path / "first")
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    config.init_lora_weights = start
    wrapped.save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match=rf"init_lora_weights='{start}' changed the base's weig"):
        read_lora(tmp_path / "moved")
    config.init_lora_weights = start.lower()
    wrapped.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "first")
    )
    ids, base = tokens(), tiny("Llama")
    before = logits(base, ids)
    library = in_library(tmp_path, ["plain"])
    library.attach(base)
    library.use("plain")
    # the base's weights were decomposed, and rounded, in float32
    assert away(logits(base, ids), logits(wrapped, ids), before) <= 1e-5


def test_files_that_are_missing_torn_or_pickled_are_one_line_each(tmp_path):
    folder = write_peft(tmp_path / "x", adapter("x", 2))
    assert read_lora(folder).name == "x"
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-9])
    with pytest.raises(ValueError, match="can't be read, or is cut short"):
        read_lora(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors; get the adapter"):
        read_lora(folder)
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(ValueError, match="reading that may run code; have it saved again"):
        read_lora(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is no config of an adapter"):
        read_lora(folder)
    with pytest.raises(ValueError, match=r"has neither adapter_config\.json .* nor record\.json"):
        read_lora(tmp_path)
    with pytest.raises(ValueError, match="has neither"):
        read_lora(tmp_path / "nowhere")


def test_tensors_that_are_no_pair_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_peft(tmp_path / "x", adapter("x", 2))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(k for k in tensors if "lora_B" in k)
    save_file({k: t for k, t in tensors.items() if k != key}, weights)
    with pytest.raises(ValueError, match="has no A and B of one rank"):
        read_lora(folder)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(3, 3)}, weights)
    with pytest.raises(ValueError, match=r"holds base_model\.model\.lm_head\.weight \(3, 3\)"):
        read_lora(folder)
    save_file({}, weights)
    with pytest.raises(ValueError, match="holds no adapter"):
        read_lora(folder)


def test_a_scale_is_that_of_the_module_s_own_pattern(tmp_path):
    lora = adapter("x", 4)
    plain = read_lora(write_peft(tmp_path / "plain", lora))
    path = path_of(0, "q_proj")
    patterned = read_lora(write_peft(tmp_path / "p", lora, alpha_pattern={"q_proj": 2.0}))
    torch.testing.assert_close(4 * patterned.maps[path].up, plain.maps[path].up)
    other = path_of(0, "down_proj")
    torch.testing.assert_close(patterned.maps[other].up, plain.maps[other].up)
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 8.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_lora(tmp_path / "plain")
