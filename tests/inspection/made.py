"""An inspection of slots that are drawn, over texts whose words no page may take for markup."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, models

from experiments.inspection.additions import with_strings, with_typed
from experiments.inspection.classes import CLASSES, find_class
from experiments.inspection.interface import inspected_layers
from experiments.inspection.results import FORMAT, TABLES
from experiments.inspection.statistics import Bounds, LayerStatistics
from experiments.inspection.tables import make_inspection
from experiments.inspection.texts import Text
from experiments.models.ffn._slots import Slots
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig

EVIL = "</script><img src=x onerror=alert(1)>"
WORDS = ("<end>", EVIL, "<!--<script>", "&lt;b&gt;", "\"'`", "=1+1", " the", "\n", "\u2028", "NA")
TEXTS = ("evil</title><script>alert(2)</script>", "dogs")
N_TOKENS, LENGTH = 400, 10  # of a text, and of its documents


def made_inspection(n_experts=64, names=TEXTS):
    """A layer of product keys and a dense one; half of the experts are read in one text alone."""
    rng = np.random.default_rng(0)
    tokenizer = Tokenizer(models.WordLevel(dict(zip(WORDS, range(len(WORDS)))), unk_token="<end>"))
    keyed = PKMConfig(n_experts=n_experts, n_heads=2, top_k=2, d_key=8, query_norm="layer")
    model = (
        TransformerConfig(
            d_model=16,
            d_head=8,
            vocab_size=len(WORDS),
            seq_len=24,
            tie_head=False,
            ffns=(keyed, DenseConfig(width_factor=2)),
        )
        .build()
        .eval()
    )
    layers = inspected_layers(model)
    texts, found = [], {}
    classes = np.array([CLASSES.index(find_class(word)) for word in WORDS])
    for name in names:
        tokens = rng.integers(1, len(WORDS), N_TOKENS)
        tokens[LENGTH - 1 :: LENGTH] = 0
        texts.append(Text(name=name, tokens=tokens, digest=name))
    documents = np.arange(N_TOKENS) // LENGTH
    for layer in layers:
        n = layer.n_experts
        own = LayerStatistics(n, len(texts), classes, Bounds(n_units=3))
        for i, text in enumerate(texts):
            experts = torch.tensor(rng.integers(0, n, (N_TOKENS, 4)))
            if len(texts) > 1 and layer.block == 0:
                experts = torch.where(experts < n // 2, experts, n // 2 + (experts % 4) + 4 * i)
            gates = torch.tensor(rng.random((N_TOKENS, 4)))
            slots = Slots(experts=experts, gates=gates, weights=gates)
            own.add(slots, text.tokens, np.arange(N_TOKENS) + i * N_TOKENS, i, documents)
        found[layer.name] = own
    identity = {
        "format": FORMAT,
        "run_id": "0123",
        "weights": "",
        "patch": "",
        "layers_read": [layer.name for layer in layers],
        "texts": [{"name": text.name, "digest": "", "max_tokens": None} for text in texts],
    }
    run = SimpleNamespace(
        model=model, layers=layers, texts=texts, tokenizer=tokenizer,
        reading=SimpleNamespace(identity=identity, end_of_text=0),
    )  # fmt: skip
    return make_inspection(run, found), found


def with_additions(inspection):
    """With a typed text, which is the first excerpt's, and a string that was looked for."""
    tables = {name: inspection.tables[name] for name in ("excerpts", "parts")}
    first = {name: table[table["text"] == TEXTS[0]] for name, table in tables.items()}
    line = {"string": EVIL * 2, "n_read": 30, "n_documents": 9, "share": 0.5, "elsewhere": 0.25}
    two = [
        {**line, "layer": "blocks.0.ffn", "position": j, "token": EVIL, "expert": 3 + j,
         "low": 0.25, "high": 0.75, "overall": 0.125}
        for j in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(two)[["layer", *TABLES["strings"]]]
    return with_strings(with_typed(inspection, "\n" + EVIL, first), EVIL * 2, table)


def with_before(inspection):
    """As if the first layer had grown from its first 6 rows of 8, which had twice the mass."""
    cells = inspection.tables["map"].query("layer == 'blocks.0.ffn' and row < 6")
    then = {"run_id": "0011", "n_experts": 48, "share_new": 0.25, "used_new": 1.0,
            "moved": 0.25, "moved_old": 0.0}  # fmt: skip
    about = {**inspection.about, "blocks.0.ffn": {**inspection.about["blocks.0.ffn"]}}
    about["blocks.0.ffn"]["before"] = then
    before = cells.assign(mass=2 * cells["mass"])
    return replace(inspection, about=about, tables={**inspection.tables, "before_map": before})
