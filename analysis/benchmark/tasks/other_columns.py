"""Loss in columns that laws in size, tokens and experts don't have: forms of a subject each."""

from collections.abc import Mapping

import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.surfaces.form import SHARE
from analysis.surfaces.form_compare import compare_forms

_EXPERTS = {"num_experts": "n_experts", "dense_parameter_count": "n_params"}
_RATES = {
    "non_embedding_param_size": "n_params", "n": "n_params", "data_size": "n_tokens",
    "d": "n_tokens", "lr": "lr", "bsz": "batch", "bs": "batch",
}  # fmt: skip
_VOCABULARY = {
    "non_vocab_parameters": "n_non_vocab_params", "vocab_size": "vocab_size",
    "num_characters": "n_characters",
}  # fmt: skip
_DOMAINS = [str(i) for i in range(1, 6)]
_SHARES = {f"proportion_domain_{i}": f"{SHARE}{i}" for i in _DOMAINS}


def _task(subject: str, published: str, names: Mapping[str, str], *losses: str) -> Task:
    columns = tuple(dict.fromkeys(names.values()))

    def answer(fit: pd.DataFrame, hidden: pd.DataFrame) -> Answer:
        found = compare_forms(fit[[*columns]], fit["loss"], subject)
        return Answer(
            predicted=found.predict(hidden[[*columns]], new_run=True),
            chosen=", ".join(form.form_name for form in found.close),
            warnings=found.warnings,
        )

    return Task(
        name=subject,
        columns=columns,
        target="loss",
        published=(published,),
        answer=answer,
        largest=lambda rows: (
            rows[[*columns]].select_dtypes("number").prod(axis=1).to_numpy(dtype="float64")
        ),
        names={**names, **dict.fromkeys(losses, "loss")},
    )


def _domains_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run and domain, of which its loss is: each domain has a law of its own."""
    apart = [f"loss_domain_{i}" for i in _DOMAINS]
    if not set(apart[1:]) <= set(frame):
        return frame
    frame = frame.rename(columns={"loss": apart[0]})
    rest = frame.drop(columns=apart)
    parts = [rest.assign(loss=frame[name], domain=name) for name in apart]
    by = [name for name in ("group",) if name in frame]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(group=rows[[*by, "domain"]].astype(str).agg(" ".join, axis=1))


TASKS = (
    _task("routers", "moe_scaling_law", {**_EXPERTS, "router_type": "router"}, "loss_validation"),
    _task("rates", "lr_bsz_scaling_law", _RATES, "lm_loss", "smooth_loss"),
    _task("vocabulary", "vocab_scaling_law", _VOCABULARY, "unigram_normalized_loss", "lossu"),
    _task("fine_tuning", "sft_scaling_law", {"sft_data_size": "n_examples"}, "sft_loss"),
    _task(
        "streams", "parallel_scaling_law", {"num_params": "n_params", "parallel_size": "n_streams"}
    ),
    _task("mixture", "domain_mixture_scaling_law", _SHARES, "loss_domain_1").with_rows(
        _domains_apart
    ),
)
