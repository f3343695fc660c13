"""Weights to start from, and what of the model is trained: init=run, hf, smollm2."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.schema import Init, RunConfig
from experiments.data.folders import digest
from experiments.init import completion
from experiments.init.finished_run import FinishedRun
from experiments.init.how import find_how
from experiments.init.place import own_layers, placed, trained_blocks
from experiments.init.start import start
from experiments.models.transformer import TransformerConfig
from experiments.points.layers import bases, chosen
from experiments.points.point import BuiltRun, Point, RunPart, Scores
from experiments.system.claims import log_event
from experiments.system.disk import write_text
from experiments.system.made_once import made_once
from experiments.system.text_table import count


@dataclass(frozen=True, kw_only=True)
class Weights(RunPart):
    """They are put into the model, and what is not to be trained is frozen."""

    order = 10
    by_columns = True
    init: Init

    @classmethod
    def complete(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills the nulls of conf/init with what the weights say."""
        return completion.completed(raw)

    @classmethod
    def of(cls, config: RunConfig) -> "Weights | None":
        return None if config.init is None else cls(init=config.init)

    def shape(self, config: RunConfig, transformer: TransformerConfig) -> TransformerConfig:
        return replace(
            transformer,
            ffns=placed(config),
            trained_blocks=trained_blocks(config),
            tables_alone=self.init.train == "tables",
        )

    def identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Weights are what they are wherever they are: their hash stays."""
        init = {k: v for k, v in identity["init"].items() if k not in ("path", "weights")}
        return {**identity, "init": init}

    def plan_line(self, point: Point) -> tuple[str, str]:
        """Where the weights come from, what is done with them, and what is trained."""
        init, cost = self.init, point.plan.cost
        blocks = chosen(point.config)
        where = f" in block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
        # else no block is another than the rest
        differs = not find_how(init.how).as_it_is or init.train == "layer"
        share = cost.frozen_flops / cost.training_flops
        trained = f"{count(cost.n_trained_params)} of {count(cost.n_params)} parameters"
        text = (
            f"{type(init.weights).__name__} {str(init.sha256)[:8]}, "
            f"{init.how}{where if differs else ''}; trained: {init.train}, {trained}; "
            f"{share:.0%} of the FLOPs are of frozen parts"
        )
        return "Weights to start from", text

    def start(self, run: BuiltRun) -> dict[str, Any]:
        """Returns the columns init and before. Raises ValueError for weights that are no longer
        those that the config was completed with, RuntimeError for a layer beside that changes the
        function.
        """
        init, point, config = self.init, run.point, run.point.config
        if run.scorer is not None:
            log_event(point.run_dir, "starting from weights", how=init.how)
        found = init.weights.digest(point.cache)
        if found != init.sha256:
            raise ValueError(
                f"the weights of init have sha256 {found}, and this run starts from {init.sha256}; "
                "restore the file, or start a new run with these"
            )
        started = start(
            run.model,
            init,
            init.weights.state(point.cache),
            bases(config),
            chosen(config),
            run.batches(),
            seed=config.seed,
        )
        if started.exact is False:
            raise RuntimeError(
                f"init.how={init.how} changed the function of the weights, which it must not: the "
                "layer beside does not start at zero; set another model"
            )
        column = {
            "weights": type(init.weights).__name__,
            "sha256": init.sha256,
            "how": init.how,
            "train": init.train,
            "exact": started.exact,
            "flops": started.flops,
            "distilled": {str(i): asdict(d) for i, d in started.distilled.items()},
            "late": {str(i): depth for i, depth in started.late.items()},
        }
        if isinstance(init.weights, FinishedRun):
            column["parent"] = init.weights.parent()
        return {"init": column, "before": self._scores(run)}

    def _scores(self, run: BuiltRun) -> Scores:
        """Scores at the start. Most ways don't change the function (tests/init): then these
        depend on the weights, the sets and the rule alone, and are kept in the cache.
        """
        scorer, config = run.scorer, run.point.config
        if scorer is None:
            return {}
        if not all(map(find_how(self.init.how).is_exact, own_layers(config))):
            return scorer.all()
        parts = {
            "weights": self.init.sha256,
            "validation": run.prepared.validation.digest,
            "n_eval_tokens": config.data.n_eval_tokens,
            "seq_len": config.data.seq_len,
            "mask_documents": config.data.mask_documents,
            "batch_size": config.ladder.batch_size,
            "sets": {name: tokens.digest for name, tokens in run.sets.items()},
            "rule": asdict(config.evaluation),
        }

        def score(folder: Path) -> None:
            write_text(folder / "scores.json", json.dumps(scorer.all()))

        folder = made_once(run.point.cache / "starts" / digest(parts), score)
        scores: Scores = json.loads((folder / "scores.json").read_text())
        return scores
