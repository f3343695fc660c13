"""Refusals of a library of adapters and its routes: one line each, and nothing has changed."""

import pytest
import torch

from experiments.adapters import LoRA, LowRank, add_text, by_text, learn, lora_library
from tests.adapters.small import adapter, model, path_of, tokens

pytest.importorskip("transformers")


def low_rank(path, width=32, base=None, name="x"):
    pair = LowRank(down=torch.zeros(2, width), up=torch.zeros(2, 32))
    return LoRA(name=name, base=base, maps={path: pair})


def keyed(library):
    by_text(library, {"a": tokens()}, tokens())
    return library


def other_width(library):
    base = model()
    base.model.layers[0].self_attn.q_proj = torch.nn.Linear(32, 40)
    library.attach(base)


Q = path_of(0, "q_proj")
OF_ATTACHED = [
    (lambda own: own.arrow(top_k=0), "top_k=0 must be at least 1"),
    (lambda own: own.arrow(temperature=0), "temperature=0 must be above 0"),
    (lambda own: own.arrow(memory=0.5), r"memory=0\.5 must be at least 1 token"),
    (lambda own: by_text(own, {}, tokens()), "names no adapter"),
    (lambda own: by_text(own, {"x": tokens()}, tokens()), "no adapter 'x'"),
    (lambda own: by_text(own, {"a": tokens()[0]}, tokens()), r"must be token ids \(n, seq\)"),
    (lambda own: add_text(own, "a", tokens()), "route is Fixed; call by_text first"),
    (lambda own: learn(own, tokens(), n_steps=1), "route is Fixed; call by_text first"),
    (lambda own: learn(keyed(own), tokens(), n_steps=0), "n_steps=0 must be at least 1"),
    (lambda own: own.add(adapter("a", 2)), "'a' is in the library; remove it, or give name="),
    (lambda own: own.add(adapter("base", 2)), "can't be named 'base'"),
    (lambda own: own.add(adapter("x", 5)), "rank 5 and the library holds up to 4; .* rank=5"),
    (lambda own: own.add(low_rank(Q, 31)), "another model: .* to 32, and the adapter 31 to 32"),
    (lambda own: own.add(low_rank("model.layers.9.up")), r"LlamaForCausalLM has no model\.layers"),
    (lambda own: own.remove("x"), "no adapter 'x' is in the library, which has a, b, c"),
    (lambda own: own.use("x"), "no adapter 'x'"),
    (lambda own: own.attach(model()), "attached to a model; detach it first"),
]
OF_ALONE = [
    (lambda own: by_text(own, {"a": tokens()}, tokens()), "attached to no model"),
    (lambda own: own.watching(torch.zeros(4)).__enter__(), "attached to no model; attach it fir"),
    (lambda own: own.restore({}, places={}, maps={}, n_places=1, base=None), "into an empty one"),
    (lambda own: own.attach(torch.nn.Linear(3, 3)), r"Linear has no model\.layers"),
    (other_width, "maps 32 features to 40, and the library's 32 to 32"),
    (lambda _: lora_library([]), "a library needs at least one adapter"),
    (
        lambda _: lora_library([low_rank(Q, base=8 * n, name=n) for n in "ab"]),
        r"trained on other weights \(bbbbbbbb\) than .*aaaaaaaa",
    ),
]


@pytest.mark.parametrize(
    ("attached", "ask", "message"),
    [*((True, *row) for row in OF_ATTACHED), *((False, *row) for row in OF_ALONE)],
)
def test_it_is_refused_in_one_line_and_changes_nothing(attached, ask, message):
    library = lora_library([adapter("a", 4, seed=1), adapter("b", 2), adapter("c", 3)])
    if attached:
        library.attach(model())
    before = library.n_places, dict(library.places)
    with pytest.raises(ValueError, match=message) as refused:
        ask(library)
    assert "\n" not in str(refused.value)
    assert (library.n_places, library.places) == before
