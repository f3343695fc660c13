"""Exports as transformers' own models behave: hidden states, keywords, checkpointing, AutoModel,
classification, training with adapters, pickles and copies.
"""

import copy
import pickle

import pytest
import torch

from tests.interchange.models import VOCABULARY, built, exported, loaded

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("hub_modules"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # new in 5.24
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vocabulary):
    """An export of PEER with batch norm of its queries, beside a dense block."""
    folder = tmp_path_factory.mktemp("export") / "peer"
    exported(built("peer"), folder, vocabulary)
    return folder


def tokens(*shape):
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_hidden_states_are_those_between_the_blocks(folder):
    model, ids = loaded(folder), tokens(2, 12)
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + len(model.blocks)
    assert torch.equal(output.hidden_states[0], model.embedding(ids))
    assert torch.equal(model.head(output.hidden_states[-1]), output.logits)
    entered = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(ids)
    assert len(entered) == len(model.blocks)
    assert all(map(torch.equal, entered, output.hidden_states))
    assert model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == 1 + len(model.blocks)


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForCausalLM"])
def test_keywords_that_nothing_reads_are_refused(auto, folder):
    model, ids = loaded(folder, auto), tokens(1, 4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'attention_maks'"):
        model(ids, attention_maks=torch.ones(1, 4))
    with pytest.raises(TypeError, match="unexpected keyword argument 'is_causal'"):
        model(ids, is_causal=False)
    with pytest.raises(ValueError, match="output_attentions=True: attention's weights"):
        model(ids, output_attentions=True)
    with pytest.raises(ValueError, match="output_hidden_states=1 must be True or False"):
        model(ids, output_hidden_states=1)


def test_keywords_of_the_loss_reach_it(folder):
    model, ids = loaded(folder), tokens(2, 8)
    mean, of_sum = model(ids, labels=ids).loss, model(ids, labels=ids, num_items_in_batch=1).loss
    torch.testing.assert_close(of_sum, mean * 14)


def test_gradient_checkpointing_gives_the_same_gradients(folder):
    plain, saving = loaded(folder).train(), loaded(folder).train()
    saving.gradient_checkpointing_enable()
    assert all(block.gradient_checkpointing for block in saving.blocks)
    ids, calls = tokens(2, 12), []
    saving.blocks[0].ffn.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain, saving):
        model(ids, labels=ids).loss.backward()
    assert len(calls) == 2  # once more in the backward pass
    for name, parameter in plain.named_parameters():
        assert torch.equal(saving.get_parameter(name).grad, parameter.grad), name


@torch.no_grad()
def test_the_base_model_is_the_trunk(folder):
    base, whole, ids = loaded(folder, "AutoModel"), loaded(folder), tokens(2, 12)
    assert type(base).__name__ == "ExpertsModel"
    assert torch.equal(whole.head(base(ids).last_hidden_state), whole(ids).logits)


def test_a_classifier_reads_the_last_token_and_comes_back(folder, tmp_path):
    auto = "AutoModelForSequenceClassification"
    torch.manual_seed(0)
    model, ids = loaded(folder, auto, num_labels=3), tokens(2, 8)
    assert 0.05 < model.score.weight.std() < 0.5  # drawn, and not what memory held
    alone = [model(ids[:1, :5]).logits, model(ids[1:]).logits]
    right, left = ([1] * 5 + [0] * 3, range(8)), ([0] * 3 + [1] * 5, [7, 7, 7, *range(5)])
    for mask, order in (right, left):
        both = torch.cat([ids[:1, list(order)], ids[1:]])
        both = model(both, attention_mask=torch.tensor([mask, [1] * 8])).logits
        torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert model(ids, labels=torch.tensor([0, 2])).loss > 0
    model.save_pretrained(tmp_path / "saved")
    again = loaded(tmp_path / "saved", auto)
    assert torch.equal(again(ids).logits, model(ids).logits)


def trained(model, ids, n_steps=3):
    model.train()
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(n_steps):
        model(input_ids=ids, labels=ids).loss.backward()
        adam.step()
        adam.zero_grad()
    return model.eval()


def test_an_adapter_that_was_trained_on_an_export_comes_back(folder, tmp_path):
    """Batch norm's statistics are the base's, which is not saved with an adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["qkv", "query"])
    ids = tokens(2, 16)
    model = trained(peft.get_peft_model(loaded(folder), config), ids)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(loaded(folder), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert (again(ids).logits - loaded(folder)(ids).logits).abs().max() > 0.01


def test_batch_norm_is_trained_if_it_is_asked_to_be(folder):
    ids = tokens(2, 16)
    for options, same in (({}, True), ({"freeze_batch_norm": False}, False)):
        model = loaded(folder, **options)
        before = model.blocks[0].ffn.query_norm.norm.running_mean.clone()
        trained(model, ids, n_steps=1)
        assert torch.equal(model.blocks[0].ffn.query_norm.norm.running_mean, before) == same


@torch.no_grad()
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_and_a_pickle_are_the_model(again, folder):
    model, ids = loaded(folder), tokens(2, 8)
    assert torch.equal(again(model)(ids).logits, model(ids).logits)


def test_the_tokenizer_gives_what_the_model_reads(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found = tokenizer(["the cat", "a mat on a"], padding=True, return_tensors="pt")
    assert loaded(folder)(**found).logits.shape[:2] == found["input_ids"].shape
