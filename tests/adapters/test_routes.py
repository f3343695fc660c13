"""What each route chooses, against sums written out in float64; with a cache as without."""

import copy
import math
import pickle

import pytest
import torch

from experiments.adapters import add_text, by_text, find_library, learn, lora_library
from experiments.adapters.evidence import Evidence, Text
from experiments.adapters.prototypes import Background, next_token_loss
from experiments.adapters.routes import Arrow, ProductKeys, Reading, top_direction
from tests.adapters.small import adapter, model, tokens
from tests.rounding import assert_rounding

pytest.importorskip("transformers")


@pytest.mark.parametrize("memory", [1, 3, 64.5, math.inf])
@pytest.mark.parametrize("length", [1, 7, 300])
def test_evidence_is_a_sum_that_forgets(memory, length):
    torch.manual_seed(0)
    x = torch.randn(2, length, 5, dtype=torch.float64)
    found = Evidence(memory).sums(x)
    decay = 1 - 1 / memory
    expected, so_far = [], torch.zeros(2, 5, dtype=torch.float64)
    for t in range(length):
        so_far = x[:, t] + decay * so_far
        expected.append(so_far)
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=0, atol=1e-9)


def test_evidence_of_parts_is_that_of_the_whole():
    x, text = torch.randn(2, 300, 5, dtype=torch.float64), Text()
    evidence = Evidence(50)
    parts, n = [], 0
    for part in x.split([4, 1, 170, 1, 124], dim=1):
        parts.append(evidence.sums(part, text, n))
        n += part.shape[1]
    torch.testing.assert_close(torch.cat(parts, 1), Evidence(50).sums(x), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="4 tokens of this text were read before"):
        Evidence(50).sums(x[:, :1], text, 4)


@pytest.fixture
def three():
    return [adapter(n, 4 - i, blocks=(1, 2), seed=i + 1) for i, n in enumerate("abc")]


@pytest.fixture
def attached(three):
    """A model, and the library that is on it."""
    base, library = model(), lora_library(three)
    library.attach(base)
    return base, library


def with_outputs(of, ids):
    """Of every linear map with an adapter: its inputs and outputs, in one forward pass."""
    seen, hooks = {}, []
    for name, module in of.named_modules():
        if isinstance(module, torch.nn.Linear):

            def note(_, args, output, name=name):
                seen[name] = args[0], output

            hooks.append(module.register_forward_hook(note))
    states = []
    hooks.append(
        of.model.layers[1].register_forward_pre_hook(lambda _, args: states.append(args[0]))
    )
    with torch.no_grad():
        of(ids)
    for hook in hooks:
        hook.remove()
    return seen, states[0]


def test_product_keys_by_hand(three, attached):
    """Each map's output is its own, and gate times the adapter's product of every one retrieved."""
    (base, library), ids = attached, tokens()
    torch.manual_seed(1)
    route = ProductKeys(32, rank=4, top_k=2, memory=5, temperature=0.7)
    library.set_route(route)
    places = library.places
    for place in places.values():
        route.set_key(place, torch.randn(33))
    seen, states = with_outputs(base, ids)
    states = torch.cat([states.float(), torch.ones(3, 20, 1)], -1).double()
    for path in three[0].maps:
        x, y = seen[path]
        weight = base.get_submodule(path).weight
        for b in range(3):
            said = torch.zeros(33, dtype=torch.float64)
            for t in range(20):
                said = states[b, t] + 0.8 * said
                scores = {"base": torch.zeros((), dtype=torch.float64)}
                scores |= {n: route.key(p).double() @ said for n, p in places.items()}
                best = sorted(scores, key=lambda n: -scores[n])[:2]
                gates = (torch.stack([scores[n] for n in best]) / 0.7).softmax(0)
                expected = weight @ x[b, t]
                for name, gate in zip(best, gates, strict=True):
                    if name != "base":
                        low_rank = {lora.name: lora for lora in three}[name].maps[path]
                        expected = expected + gate * low_rank.up.T @ (low_rank.down @ x[b, t])
                # scores are float32 and as large as 30, and a softmax passes their error on
                assert_rounding(y[b, t], expected, n_blocks=0, each=30 * 16)


def test_component_keys_choose_within_an_adapter(three):
    """top_k = 1 adapter of rank 4: the four best of all pairs, wherever they are."""
    torch.manual_seed(2)
    route = ProductKeys(8, rank=4, top_k=1, memory=1)
    route.keys, route.component_keys = torch.randn(3, 9), torch.randn(4, 9)
    route.places = torch.tensor([0, 5, 3])
    x = torch.randn(2, 6, 8)
    choice = route.choose(x, "", Reading())
    said = torch.cat([x, torch.ones(2, 6, 1)], -1).flatten(0, 1)
    pairs = (said @ route.keys.T)[:, :, None] + (said @ route.component_keys.T)[:, None]
    scores, experts = pairs.flatten(1).topk(4)
    experts = route.places[experts // 4] * 4 + experts % 4
    assert torch.equal(choice.experts.sort(-1).values, experts.sort(-1).values)
    torch.testing.assert_close(choice.gates.sum(-1), torch.full((12,), 4.0))
    torch.testing.assert_close(choice.gates, 4 * scores.softmax(-1), rtol=1e-5, atol=1e-6)


def test_arrow_by_hand(three, attached):
    (base, library), ids = attached, tokens()
    library.arrow(top_k=2, temperature=0.5)
    seen, _ = with_outputs(base, ids)
    for path in three[0].maps:
        x, y = seen[path]
        expected = x @ base.get_submodule(path).weight.T
        products = [lora.maps[path].up.T @ lora.maps[path].down for lora in three]
        directions = [torch.linalg.svd(product)[2][0] for product in products]
        scores = torch.stack([(x @ v).abs() for v in directions], -1)
        top, chosen = scores.topk(2, -1)
        for j, gates in enumerate((top / 0.5).softmax(-1).unbind(-1)):
            for i, product in enumerate(products):
                expected = expected + (gates * (chosen[..., j] == i))[..., None] * (x @ product.T)
        assert_rounding(y, expected, n_blocks=1)  # prototypes are float32


def test_the_direction_is_the_largest_stretch():
    low_rank = next(iter(adapter("a", 3).maps.values()))
    product = low_rank.up.T @ low_rank.down
    v = top_direction(low_rank).double()
    assert float((product @ v).norm()) == pytest.approx(
        float(torch.linalg.matrix_norm(product, 2)), rel=1e-6
    )


TEXTS = {"a": (3, 18), "b": (18, 33), "c": (33, 48)}  # ids of each domain; the rest: background


def texts(seed=0, n=6):
    return {
        name: tokens(n, 24, low, high, seed + i)
        for i, (name, (low, high)) in enumerate(TEXTS.items())
    }


@pytest.mark.parametrize("memory", [1, 16, math.inf])
def test_keys_made_of_text_find_the_text_s_adapter_or_the_base(memory, attached):
    base, library = attached
    route = by_text(library, texts(), tokens(6, 24, 48, 64), memory=memory)
    with torch.no_grad():
        for name, windows in (texts(50) | {"base": tokens(6, 24, 48, 64, 99)}).items():
            sums = torch.zeros(library.n_places, dtype=torch.float64)
            with library.watching(sums):
                base(windows)
            place = 0 if name == "base" else library.places[name]
            share = float(sums[place] / sums.sum())
            assert share > 0.5, (name, sums)  # of four; top_k = 2, so some is another's
    assert route.memory == memory


def test_a_discriminant_by_hand(attached):
    """Keys are S^-1 (m_a - m_0), with the covariance within texts a little shrunk."""
    base, library = attached
    background = tokens(6, 24, 48, 64)
    route = by_text(library, texts(), background)
    library.use()
    states = {}
    for name, windows in (texts() | {"base": background}).items():
        states[name] = with_outputs(base, windows)[1].flatten(0, 1)
    means = {name: h.mean(0) for name, h in states.items()}
    within = sum(
        (h - means[n]).T @ (h - means[n]) / len(h) / len(states) for n, h in states.items()
    )
    shrunk = 0.99 * within + 0.01 * within.diagonal().mean() * torch.eye(32)
    for name in "abc":
        weights = torch.linalg.solve(shrunk, means[name] - means["base"])
        constant = -(means[name] + means["base"]) @ weights / 2
        expected = torch.cat([weights, constant[None]]).float()
        torch.testing.assert_close(route.key(library.places[name]), expected, rtol=1e-4, atol=1e-4)


def test_a_later_adapter_gets_a_key_and_no_other_key_changes(three, attached):
    base, library = attached
    fit = texts()
    route = by_text(library, {n: fit[n] for n in "ab"}, tokens(6, 24, 48, 64), memory=16)
    before, temperature = {p: route.key(p).clone() for p in (0, 1, 2)}, route.temperature
    library.remove("c")
    library.add(three[2])
    ids = tokens(2, 24, 33, 48, 7)
    sums = torch.zeros(library.n_places, dtype=torch.float64)
    with torch.no_grad(), library.watching(sums):
        base(ids)
    assert sums[library.places["c"]] == 0, "without a key it is not retrieved"
    add_text(library, "c", fit["c"])
    assert (library.places["a"], library.places["b"]) == (1, 2)
    assert all(torch.equal(route.key(place), key) for place, key in before.items())
    assert route.temperature == temperature
    sums.zero_()
    with torch.no_grad(), library.watching(sums):
        base(ids)
    assert float(sums[library.places["c"]] / sums.sum()) > 0.5


@pytest.mark.parametrize("memory", [1, 6, math.inf])
@pytest.mark.parametrize("kind", ["keys", "arrow"])
def test_with_a_cache_as_without(kind, memory, attached):
    (base, library), ids = attached, tokens(2, 18)
    if kind == "keys":
        by_text(library, texts(), tokens(6, 24, 48, 64), memory=memory)
    else:
        library.arrow(top_k=2, memory=memory)
    with torch.no_grad():
        whole = base(ids).logits
        out = base(ids[:, :7], use_cache=True)
        parts, cache = [out.logits], out.past_key_values
        for t in range(7, 18):
            parts.append(base(ids[:, t : t + 1], **{_name(base): cache}).logits)
    assert_rounding(torch.cat(parts, 1), whole, n_blocks=2)
    made = base.generate(ids[:, :5], max_new_tokens=6, do_sample=False, eos_token_id=None)
    by_hand = ids[:, :5]
    for _ in range(6):
        with torch.no_grad():
            by_hand = torch.cat([by_hand, base(by_hand).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, by_hand)


@pytest.fixture(params=["keys", "arrow"])
def routed(request, three):
    """A model with a library on it, whose route has a memory of 6 tokens."""
    base, library = model(), lora_library(three)
    library.attach(base)
    if request.param == "keys":
        by_text(library, texts(), tokens(6, 24, 48, 64), memory=6)
    else:
        library.arrow(top_k=2, memory=6)
    return base


GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.mark.parametrize("use_cache", [True, False])
def test_padding_on_the_left_is_no_evidence(routed, use_cache):
    short, long = tokens(1, 6, seed=1), tokens(1, 18, seed=2)
    ids = torch.cat([torch.cat([torch.zeros(1, 12, dtype=torch.int64), short], 1), long])
    mask = torch.ones(2, 18, dtype=torch.int64)
    mask[0, :12] = 0
    options = GREEDY | {"max_new_tokens": 12, "use_cache": use_cache}
    both = routed.generate(ids, attention_mask=mask, **options)
    for row, alone in zip(both, (short, long)):
        made = routed.generate(alone, **options)[0, alone.shape[1] :]
        assert row[18:].tolist() == made.tolist()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = routed(ids, mask, positions).logits  # by place, as transformers has the order
        torch.testing.assert_close(padded[:1, 12:], routed(short).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(padded[1:], routed(long).logits, rtol=0, atol=1e-5)
        unmasked = routed(ids, position_ids=positions).logits[:1, 12:]
        assert (padded[:1, 12:] - unmasked).abs().max() > 1e-2  # what is at stake


@pytest.mark.parametrize("n_beams", [2, 5])
def test_beams_with_a_cache_are_those_without(routed, n_beams):
    options = GREEDY | {"max_new_tokens": 16, "num_beams": n_beams, "num_return_sequences": 2}
    ids = tokens(2, 7, seed=3)
    made = [routed.generate(ids, use_cache=cache, **options) for cache in (True, False)]
    assert torch.equal(*made)


def test_what_says_nothing_of_padding_is_refused(routed):
    ids = tokens(2, 6)
    full = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"attention_mask \(4 dimensions\).*memory=1"):
        routed(ids, attention_mask=full)
    cache = routed(ids, use_cache=True).past_key_values
    cache.crop(-2)
    with pytest.raises(ValueError, match=r"4 tokens of this text .*taken back; begin the text"):
        routed(ids[:, 4:], **{_name(routed): cache})


def test_evidence_of_padded_texts_is_that_of_each_alone():
    x, evidence = torch.randn(3, 300, 4, dtype=torch.float64), Evidence(20)
    kept = torch.ones(3, 300, dtype=torch.int64)
    kept[0, :170] = 0  # on the left
    kept[1, 200:260] = 0  # in the middle, where a second text goes on
    found, text = evidence.sums(x, mask=kept), Text()
    for row, own in zip(range(3), kept.bool()):
        alone = evidence.sums(x[row, own][None])
        torch.testing.assert_close(found[row, own], alone[0], rtol=0, atol=1e-9)
    parts = [evidence.sums(x[:, n : n + 60], text, n, kept[:, : n + 60]) for n in range(0, 300, 60)]
    torch.testing.assert_close(torch.cat(parts, 1), found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_model_has_a_library_of_its_own(again, routed):
    ids = tokens(2, 12)
    with torch.no_grad():
        before = routed(ids).logits
        copied = again(routed)
        assert torch.equal(copied(ids).logits, before)
        library = find_library(copied)
        library.remove("a")
        assert not torch.equal(copied(ids).logits, before)
        assert torch.equal(routed(ids).logits, before)
        library.detach()
        assert find_library(copied) is None
        assert torch.equal(copied(ids).logits, model()(ids).logits)
        assert torch.equal(routed(ids).logits, before)
        find_library(routed).detach()
        assert torch.equal(routed(ids).logits, model()(ids).logits)


def _name(base):
    """transformers has given the argument a new name."""
    import inspect

    parameters = inspect.signature(base.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def test_learning_lowers_the_loss_and_changes_keys_alone(attached):
    base, library = attached
    route = by_text(library, texts(), tokens(6, 24, 48, 64))
    windows = torch.cat(list(texts().values()))
    state = {n: t.clone() for n, t in base.state_dict().items()}
    tables = {p: (t.w_down.clone(), t.w_up.clone()) for p, t in library.tables.items()}
    keys = route.keys.clone()
    with torch.no_grad():
        before = float(next_token_loss(base, windows).mean())
    learn(library, windows, n_steps=40, lr=0.1, batch_size=8)
    with torch.no_grad():
        after = float(next_token_loss(base, windows).mean())
    assert after < before
    assert not torch.equal(route.keys, keys)
    assert all(torch.equal(t, state[n]) for n, t in base.state_dict().items())
    assert all(
        torch.equal(t.w_down, tables[p][0]) and torch.equal(t.w_up, tables[p][1])
        for p, t in library.tables.items()
    )
    assert all(p.requires_grad and p.grad is None for p in base.parameters())


def test_an_unused_place_is_never_chosen_by_arrow(three):
    library = lora_library(three)
    library.remove("b")
    library.arrow(top_k=3)
    route = library.route
    assert isinstance(route, Arrow)
    choice = route.choose(torch.randn(1, 30, 32), next(iter(three[0].maps)), Reading())
    assert set((choice.experts // library.rank).flatten().tolist()) <= {1, 3}
    for name in "ac":
        library.remove(name)
    assert route.choose(torch.randn(1, 30, 32), next(iter(three[0].maps)), Reading()) is None
    base, ids = model(), tokens()
    library.attach(base)  # and the base alone is left
    with torch.no_grad():
        assert torch.equal(base(ids).logits, model()(ids).logits)


def test_a_later_key_is_made_where_the_background_is():
    """A library from a file has it on the CPU, whatever device its model is on."""
    elsewhere = torch.zeros(3, device="meta"), torch.zeros(3, 3, device="meta")
    key = Background(mean=elsewhere[0], precision=elsewhere[1]).key(torch.zeros(3))
    assert (key.device.type, key.shape) == ("meta", (4,))
