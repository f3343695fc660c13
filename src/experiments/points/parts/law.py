"""Peak learning rate by a law (budget/rate_law.py), in place of a number."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.budget.plan import Plan, peak_lr
from experiments.budget.rate_law import rate_by_law
from experiments.config.schema import RunConfig
from experiments.points.point import Draft, Point, RunPart


@dataclass(frozen=True, kw_only=True)
class RateLaw(RunPart):
    """optim.lr=law. Where the rate is a number already, law and law_form say where it came from."""

    by_columns = True

    @classmethod
    def of(cls, config: RunConfig) -> "RateLaw | None":
        return None if config.optim.law is None else cls()

    def identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Keeps the rate itself, and not where it came from."""
        optim = identity["optim"]
        own = {name: value for name, value in optim.items() if name not in ("law", "law_form")}
        return {**identity, "optim": own}

    def plan(self, draft: Draft, plan: Plan) -> tuple[Draft, Plan]:
        """A number in place of the law, to 4 digits: a run's identity has them. Raises ValueError
        for a law that doesn't say this point's rate.
        """
        config, optim, d_model = draft.config, draft.config.optim, draft.transformer.d_model
        if optim.lr != "law":
            return draft, plan
        assert optim.law is not None
        values = {
            "d_model": d_model,
            "n_layers": config.size,
            "n_tokens": plan.n_tokens,
            "n_steps": plan.n_steps,
            "batch_tokens": plan.batch_tokens,
            "n_params": plan.cost.n_params,
            "n_active_params": plan.cost.n_active_params,
            "n_non_embedding_params": plan.cost.n_non_embedding_params,
        }
        rate = rate_by_law(Path(optim.law), optim.law_form, config.model_name, values)
        scale = peak_lr(1.0, optim.lr_d_model, optim.lr_width_exponent, d_model)
        lr = float(f"{rate.lr / scale:.4g}")
        found = replace(
            draft,
            raw={**draft.raw, "optim": {**draft.raw["optim"], "lr": lr}},
            config=replace(config, optim=replace(optim, lr=lr)),
        )
        return found, replace(plan, lr=lr * scale, lr_from=rate.describe())

    def plan_line(self, point: Point) -> tuple[str, str] | None:
        text = point.plan.lr_from
        return ("Peak learning rates by law", text) if text else None
