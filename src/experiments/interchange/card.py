"""Model card: what a record knows of a model, for those who find it without the harness."""

from collections.abc import Mapping
from typing import Any

from experiments.interchange.forms import Form, n_bytes
from experiments.interchange.texts import UNKNOWN, find_texts, hub_licence
from experiments.records.record import RunRecord
from experiments.system.text_table import filled


def model_card(record: RunRecord, form: Form, *, masked: bool, patch: str = "") -> str:
    """README.md of an export. masked: trained with attention kept within documents. patch: of the
    model's experts after the training, in words.
    """
    sections = (
        _front(record, form),
        f"# {record.model}, run {record.run_id}\n\n{_about(record, form)}{_edited(patch)}",
        f"## Numbers\n\n{_numbers(record)}",
        f"## Data\n\n{_data(record)}",
        f"## Training\n\n{_training(record)}",
        f"## Use\n\n{_use(form)}",
        f"## Limits\n\n{_limits(record, form, masked)}",
    )
    return "\n\n".join(sections) + "\n"


def _front(record: RunRecord, form: Form) -> str:
    """Head that the hub reads. The licence is that of the texts, and of earlier weights."""
    texts, licences = find_texts(_corpus(record)), []
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    init = record.config.get("init")
    if init is not None:
        smollm2 = str(init.get("weights", {}).get("_target_", "")).endswith(".SmolLM2")
        licences = ["Apache 2.0" if smollm2 else UNKNOWN]
        lines += ["base_model: HuggingFaceTB/SmolLM2-135M-Instruct"] if smollm2 else []
    licence = hub_licence([*licences, *(text.licence for text in texts)])
    lines += [f"license: {licence}"]
    if licence == "other":
        lines += ["license_name: those-of-its-texts", "license_link: README.md"]
    for field, tags in (
        ("language", [text.language for text in texts]),
        ("datasets", [text.dataset for text in texts]),
        ("tags", [None if form.is_native else "custom_code"]),
    ):
        if known := sorted({tag for tag in tags if tag is not None}):
            lines += [f"{field}:", *(f"- {tag}" for tag in known)]
    return "\n".join(["---", *lines, "---"])


def _corpus(record: RunRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.config.get("data", {}).get("corpus", {})
    return found


def _about(record: RunRecord, form: Form) -> str:
    kinds = [_kind(node) for node in form.config.get("ffns", [])] or ["dense"] * record.n_layers
    layers = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))
    return filled(
        f"A decoder of {record.n_layers} blocks, {record.d_model} wide, trained from a comparison "
        f"of feed-forward layers at equal compute (He 2024, arXiv:2407.04153, asks the question). "
        f"Feed-forward layers of the blocks: {layers}. It is an object of study, and no assistant."
    )


def _edited(patch: str) -> str:
    if not patch:
        return ""
    return "\n\n" + filled(
        f"**Its experts were edited after training**: {patch}. Numbers below are of the model as "
        "it was trained, but for those whose names end with that patch."
    )


def _kind(node: Mapping[str, Any]) -> str:
    """Name of a layer's file; of one that holds others, theirs."""
    parts = [
        _kind(part) for part in node.values() if isinstance(part, Mapping) and "_target_" in part
    ]
    return " with ".join(parts) + " beside it" if parts else node["_target_"].split(".")[-2]


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
    said = "; ".join(
        f"{text.about} ({_said(text.licence)})" for text in find_texts(_corpus(record))
    )
    return filled(
        f"Texts, by the names of the harness' docs/data.md, with their licences: {said}. They are "
        "not part of this folder. Whoever publishes the model says under which licence; the one "
        "above is that of the texts, as far as it is known."
    )


def _said(licence: str) -> str:
    return "licence not known here" if licence == UNKNOWN else licence


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
    return filled(text)


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
        else "The code of the model is in this folder, plain torch: modeling_experts.py, and "
        "beside it the source of its layers. Read it before you trust it."
    )
    size = f"The weights are {n_bytes(form.state) / 1e6:.1f} MB."
    return "\n".join(["```python", *code, "```", "", filled(f"{about} {size}")])


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
    if form.config.get("freeze_batch_norm"):
        limits.append(
            "In training too, batch norm of queries uses the statistics that it has, and keeps "
            "them: an adapter that is saved without them is read back beside the same ones. To "
            "train them as well, load with freeze_batch_norm=False."
        )
    if _chooses(form.config.get("ffns")):
        limits.append(
            "In bfloat16 a token gets another expert where two score almost the same: with a PEER "
            "of 4,096 experts 30 % of tokens had one. Their logits moved by up to 0.55 standard "
            "deviations, all others' by up to 0.06, the mean loss by less than 0.001 nats/token. "
            "To repeat a number, score in float32."
        )
    if masked:
        limits.append(
            "It was trained with attention that ends where a document does. This folder can't "
            "say so: give it one document at a time, and it computes the same."
        )
    return "\n".join(filled(f"- {limit}", "  ") for limit in limits)


def _chooses(node: Any) -> bool:
    """Whether a layer of these nodes chooses experts by their scores."""
    if isinstance(node, Mapping):
        return "top_k" in node or _chooses([*node.values()])
    return isinstance(node, list) and any(map(_chooses, node))
