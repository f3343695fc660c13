"""Optimizer, its parametrization and its schedule: conf/optim."""

from dataclasses import dataclass
from typing import Annotated, Literal

from experiments.config.constraints import (
    AtLeast1,
    BelowOne,
    Fraction,
    NotNegative,
    Path,
    Positive,
    Within,
)
from experiments.config.effects import Is, Trains, Unset
from experiments.config.fields import added, used
from experiments.config.former import Former
from experiments.config.schedules import check_schedule

# By `matrices`, the key that chose one before optimizers had a `_target_`
FORMER = Former(
    key="matrices",
    classes={
        "adamw": "experiments.optim.adamw.AdamWConfig",
        "muon": "experiments.optim.muon.MuonConfig",
    },
)
LearningRate = Annotated[float, Within(0, 1000, above=True)]
Tokens = Annotated[float, Within(1, 1e18)]  # a float, so that 2e8 can be typed
_DECAYS = Is("schedule", "wsd", "trunk")  # a trunk has its branches' settings
_STANDARD, _CARRIED = Is("parametrization", "sp"), Is("parametrization", "mup", "completep")
_TABLES, _KEYS = Trains("table", "a table"), Trains("key", "a query or a key")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """What all optimizers share: rates, their schedule, and AdamW's settings, for AdamW steps what
    others leave (optim/optimizer.py). Peak rate: lr * (lr_d_model / d_model)**lr_width_exponent.

    table_lr and key_lr multiply that rate for expert tables and for queries and product keys.
    table_gradient: how tables are stepped (optim/row_adamw.py): dense: all rows | rows: the
    retrieved rows alone | fused: the same in the backward pass, without clipping.
    table_state: the type of a table's moments, of rows and fused. grad_clip: null for none.
    warmup and decay are fractions of the steps, or as long as warmup_tokens and decay_tokens say;
    final_lr is a fraction of the peak. decay_shape, trunk_power: of wsd (optim/schedule.py).
    branch_from: the steps before the decay are a trunk's (points/parts/branch.py): "trunk", which
    the sweep trains, or the path of its folder.
    lr: law is that of the fits in `law`, by its law law_form (budget/rate_law.py); a plan puts the
    number in its place. Of a number, law and law_form only say where it came from.
    parametrization: how rates, initial values and outputs go with size (models/parametrization.py):
    sp: as above | mup: lr is right at lr_d_model, and carried to other widths by what each matrix
    is for; lr_width_exponent is not used | completep: to other depths than lr_n_layers too.
    lr_d_head: the width of heads that lr is right at; null: the ladder's, as widths differ in
    their number of heads.
    """

    lr: LearningRate | Literal["law"]
    lr_d_model: AtLeast1
    lr_width_exponent: Annotated[float, Within(-10, 10)] = used(_STANDARD, idle=0.5)
    table_lr: Positive = used(_TABLES, idle=2.0)
    key_lr: Positive = used(_KEYS, idle=0.2)
    weight_decay: NotNegative = used(Trains("backbone", "a matrix of the backbone"), idle=0.1)
    beta1: BelowOne
    beta2: BelowOne
    eps: Annotated[float, Within(0, 1, above=True)]
    grad_clip: Positive | None
    schedule: Literal["cosine", "wsd", "trunk"]
    warmup: BelowOne = used(Unset("warmup_tokens"), idle=0.1)
    decay: Fraction = used(_DECAYS, Unset("decay_tokens"), idle=0.2)
    final_lr: Fraction
    # defaults: of records from before there was a choice
    table_gradient: Literal["dense", "rows", "fused"] = used(_TABLES, default="dense")
    table_state: Literal["float32", "bfloat16"] = used(_TABLES, idle="float32", default="float32")
    law: Path | None = added(None, Is("lr", "law"))
    law_form: str | None = added(None, Is("lr", "law"))
    warmup_tokens: Tokens | None = added(None)
    decay_tokens: Tokens | None = added(None, _DECAYS)
    decay_shape: Literal["linear", "1-sqrt"] = added("linear", _DECAYS)
    trunk_power: Fraction = added(0.0, _DECAYS)
    branch_from: Path | None = added(None)
    parametrization: Literal["sp", "mup", "completep"] = added("sp")
    lr_n_layers: AtLeast1 | None = added(None, Is("parametrization", "completep"))
    lr_d_head: AtLeast1 | None = added(None, _CARRIED)

    def __post_init__(self) -> None:
        if self.parametrization == "completep" and self.lr_n_layers is None:
            raise ValueError(
                "lr_n_layers=null with optim.parametrization=completep: give the number of blocks "
                "at which optim.lr is right"
            )
        if self.lr == "law" and self.parametrization != "sp":
            raise ValueError(
                f"lr=law with optim.parametrization={self.parametrization}: laws are of rates "
                "in the standard parametrization; give optim.lr a number"
            )
        if self.lr == "law" and self.law is None:
            raise ValueError(
                "lr=law wants to know which: give optim.law=..., the rates.json that "
                "`python -m analysis rates TABLE --out FOLDER` writes"
            )
        check_schedule(self)
