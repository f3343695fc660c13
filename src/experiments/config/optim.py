"""The optimizer, its parametrization and its schedule: conf/optim."""

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
from experiments.config.fields import added
from experiments.config.schedules import check_schedule

LearningRate = Annotated[float, Within(0, 1000, above=True)]
Tokens = Annotated[float, Within(1, 1e18)]  # a float, so that 2e8 can be typed


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW and its schedule. Peak rate: lr * (lr_d_model / d_model)**lr_width_exponent.

    table_lr and key_lr multiply that rate for expert tables and for queries and product keys.
    table_gradient: how tables are stepped (optimizer.py): dense: torch's AdamW | rows: the
    retrieved rows alone | fused: the same in the backward pass, without clipping.
    table_state: the type of a table's moments, of rows and fused. grad_clip: null for none.
    warmup and decay are fractions of the steps, or as long as warmup_tokens and decay_tokens say;
    final_lr is a fraction of the peak. decay_shape, trunk_power: of wsd (training/schedule.py).
    branch_from: the steps before the decay are a trunk's (branches.py): "trunk", which the sweep
    trains, or the path of its folder.
    lr: law is that of the fits in `law`, by its law law_form (budget/rate_law.py); a plan puts the
    number in its place. Of a number, law and law_form only say where it came from.
    parametrization: how rates, initial values and outputs go with size (models/parametrization.py):
    sp: as above | mup: lr is right at lr_d_model, and carried to other widths by what each matrix
    is for; lr_width_exponent is not used | completep: to other depths than lr_n_layers too.
    lr_d_head: the width of heads that lr is right at; null: the ladder's, as widths differ in
    their number of heads.
    matrices: what steps the backbone's matrices but embedding and head: adamw | muon
    (training/muon.py), at muon_lr times the rate; muon_ns_steps and muon_adjust_lr_fn are
    torch.optim.Muon's.
    """

    lr: LearningRate | Literal["law"]
    lr_d_model: AtLeast1
    lr_width_exponent: Annotated[float, Within(-10, 10)]
    table_lr: Positive
    key_lr: Positive
    weight_decay: NotNegative
    beta1: BelowOne
    beta2: BelowOne
    eps: Annotated[float, Within(0, 1, above=True)]
    grad_clip: Positive | None
    schedule: Literal["cosine", "wsd", "trunk"]
    warmup: BelowOne
    decay: Fraction
    final_lr: Fraction
    # defaults: of records from before there was a choice
    table_gradient: Literal["dense", "rows", "fused"] = "dense"
    table_state: Literal["float32", "bfloat16"] = "float32"
    law: Path | None = added(None)
    law_form: str | None = added(None)
    warmup_tokens: Tokens | None = added(None)
    decay_tokens: Tokens | None = added(None)
    decay_shape: Literal["linear", "1-sqrt"] = added("linear")
    trunk_power: NotNegative = added(0.0)
    branch_from: Path | None = added(None)
    parametrization: Literal["sp", "mup", "completep"] = added("sp")
    lr_n_layers: AtLeast1 | None = added(None)
    lr_d_head: AtLeast1 | None = added(None)
    matrices: Literal["adamw", "muon"] = added("adamw")
    muon_lr: Positive = added(1.0)
    muon_momentum: BelowOne = added(0.95)
    muon_ns_steps: Annotated[int, Within(1, 50)] = added(5)
    muon_adjust_lr_fn: Literal["match_rms_adamw", "original"] = added("match_rms_adamw")

    def __post_init__(self) -> None:
        if self.parametrization == "completep" and self.lr_n_layers is None:
            raise ValueError(
                "lr_n_layers=null with optim.parametrization=completep: give the number of blocks "
                "at which optim.lr is right"
            )
        if self.parametrization != "completep" and self.lr_n_layers is not None:
            raise ValueError(
                f"lr_n_layers={self.lr_n_layers} with optim.parametrization="
                f"{self.parametrization}, which knows no depth; set optim.parametrization=completep"
            )
        if self.parametrization == "sp" and self.lr_d_head is not None:
            raise ValueError(
                f"lr_d_head={self.lr_d_head} with optim.parametrization=sp, whose attention has no "
                "base; set optim.parametrization=mup"
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
