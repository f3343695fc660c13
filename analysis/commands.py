"""What each subcommand of `python -m analysis` does with a table."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis import growth as of_growth
from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.adapters import compare_libraries
from analysis.differences.by_column import DifferencesBy, compare_by
from analysis.differences.models import Differences, compare_models, seed_noise
from analysis.experts.compare import DEFAULT_FORMS, compare_laws
from analysis.experts.fit import size_slopes
from analysis.fitting.plain import plain
from analysis.fitting.status import FitError
from analysis.forgetting import compare_forgetting, has_learnt, unreadable
from analysis.isoflop.brief import brief
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.offsets import at_budgets
from analysis.options import as_typed, budgets_of, pairs, series_of
from analysis.parametric import ParametricFit, fit_parametric
from analysis.progress import Steps
from analysis.report.gallery import file_label
from analysis.report.perplexities import perplexities
from analysis.report.provenance import provenance_of
from analysis.report.write import write_report
from analysis.staging import check_folder, staged
from analysis.study import analyse, check_choices
from analysis.surfaces.compare import DEFAULT_SURFACES
from analysis.surfaces.models import cells_of_models, compare_surfaces_of_models
from analysis.table.load import finished, load_table
from analysis.table.merged import find_merged
from analysis.table.sources import Source, read_source
from analysis.table.trunks import find_trunks, shared_trunk, trunks_note
from analysis.table.units import PER_TOKEN, in_unit, loss_unit
from analysis.validation.influence import Influence, influence_of
from analysis.validation.residuals import residuals_of
from experiments.records import RunRecord, lacking_rows, rows_note
from experiments.system.csv_text import to_csv

Options = argparse.Namespace
_SAME = 3  # runs of one loss are no accident


def table_of(
    options: Options,
    source: Source | None = None,
    keep: Sequence[str] = (),
    needs: Sequence[str] = (),
    by_cell: bool = True,
) -> pd.DataFrame:
    """The checked table of the path, or of what was read from it. keep and needs: load_table's.
    by_cell: one loss of each cell counts, so runs that merge are a warning.

    Notes are printed unless JSON was asked for, what was left out and warnings always.
    """
    where = {name: value.split(",") for name, value in pairs("where", options.where).items()}
    cluster = getattr(options, "cluster", None)
    table = load_table(
        source or options.path,
        columns=pairs("column", options.column) or None,
        flops=options.flops,
        where=where,
        keep=[*keep, *([cluster] if cluster else [])],
        units=pairs("unit", options.unit),
        series=series_of(options),
        separator=options.separator,
        budgets=budgets_of(options),
        budget_tolerance=options.budget_tolerance,
        needs=needs,
    )
    left_out = [table.attrs[name] for name in ("damaged", "left_out") if name in table.attrs]
    shared = None
    if "cluster" in options and not cluster:
        drawn = None if options.command == "experts" else trunks_note(table)
        shared = find_trunks(table) if drawn is None else None
        if drawn is not None:
            say(options, f"note: {as_typed(drawn)}")
    for warning in (
        *left_out,
        *(table.attrs.get("warnings", ()) if by_cell else ()),
        *([shared] if shared else []),
    ):
        print(f"warning: {as_typed(warning)}", file=sys.stderr)
    for note in table.attrs.get("notes", ()):
        if note not in left_out:
            say(options, f"note: {as_typed(note)}")
    if cluster and cluster not in table:
        raise ValueError(f"--cluster {cluster} is no column; found {', '.join(map(str, table))}")
    losses = finished(table)["loss"]
    if len(losses) >= _SAME and losses.nunique() == 1:
        raise ValueError(f"all {len(losses)} losses are {losses.iloc[0]:g}: is this their column?")
    return table


def folder_of(options: Options) -> Path:
    """Where results go: --out, else the sweep's folder, else NAME-analysis beside the file.

    Raises WriteError if they can't, before anything is computed.
    """
    path: Path = options.path
    folder: Path = options.out or (
        path if path.is_dir() else path.with_name(f"{path.stem}-analysis")
    )
    check_folder(folder)
    return folder


def isoflop(options: Options) -> None:
    """Minima at each budget and their laws."""
    table, folder = table_of(options, needs=("budget", options.x)), folder_of(options)
    level = at_budgets(table, options.x).table
    if not options.brief:
        say(options, perplexities(level))
    how = {"noise": options.noise, "cluster": options.cluster}
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest, **how)
    with staged(folder) as new:
        (new / "table.csv").write_text(to_csv(table), encoding="utf-8")
        values = fit.to_dict()
        write(new / "isoflop.json", values)
        with figures.style():
            save(figures.draw_isoflop(level, fit), new / "isoflop.png", loss_unit(table))
    print_json(options, values)
    merged = find_merged(table)
    done = [*([merged.how] if merged else []), *fit.moved]
    said = f" ({'; '.join(done)})" if done else ""
    if options.brief:
        text = f"Minima of the fitted curves{said}:\n{brief(fit)}"
    else:
        text = f"\nFitted minima{said}:\n{fit.summary()}"
    say(options, in_unit(as_typed(text), loss_unit(table)))
    say(options, f"\ntable: {folder / 'table.csv'}\nfits: {folder / 'isoflop.json'}")
    say(options, f"figure: {folder / 'isoflop.png'}")


def parametric(options: Options) -> None:
    """L = E + A/N^alpha + B/D^beta for each model."""
    table = table_of(options, needs=(options.x, "n_tokens"))
    folder = folder_of(options)
    done = finished(table)
    found: dict[str, ParametricFit] = {}
    influences: dict[str, Influence] = {}
    errors = []
    delta = float("inf") if options.residual == "loss" else options.delta
    cluster = options.cluster or shared_trunk(table)
    of_models = cells_of_models(table, options.x, options.model, cluster)
    for model, cells in of_models.items():
        columns = (cells[options.x], cells["n_tokens"], cells["loss"])
        how = {"delta": delta, "residual": options.residual}
        try:
            groups = cells[cluster] if cluster else None
            found[model] = fit_parametric(*columns, groups=groups, n_draws=options.draws, **how)
            if options.influence:
                influences[model] = influence_of(*columns, **how)
        except ValueError as error:
            errors.append(f"{model}: {error}")
    if not found:
        raise FitError(f"no model could be fitted: {'; '.join(errors)}")
    values = {model: fit.to_dict() for model, fit in found.items()}
    for model, influence in influences.items():
        values[model]["influence"] = influence.to_dict()
    with staged(folder) as new, figures.style():
        for model, fit in found.items():
            runs, label = done[done["series"] == model], file_label(model)
            contours = figures.draw_contours(fit, runs, size=options.x)
            save(contours, new / f"contours_{label}.png", loss_unit(table))
            left = figures.draw_residuals(residuals_of(fit, runs, options.x))
            save(left, new / f"residuals_{label}.png", loss_unit(table))
        write(new / "parametric.json", values)
    merged = find_merged(table)
    heading = f" ({merged.how})" if merged else ""
    for model, fit in found.items():
        say(options, f"{model}{heading}\n{fit.summary()}")
        reached = f"{fit.share_at_best:.0%} of {fit.n_starts} starts reached the best value"
        say(
            options,
            f"  {reached}; condition number {fit.condition:.3g}; gradient {fit.gradient:.1e}\n",
        )
        if model in influences:
            say(options, f"{influences[model].summary()}\n")
    for text in errors:
        say(options, f"not fitted: {text}")
    print_json(options, values)
    say(options, f"fits: {folder / 'parametric.json'}")


def surfaces(options: Options) -> None:
    """Surfaces in size and tokens, compared by hold-out, for each model."""
    table, folder = table_of(options), folder_of(options)
    found, errors = compare_surfaces_of_models(
        table,
        options.x,
        options.model,
        forms=options.form or DEFAULT_SURFACES,
        hold_out=options.hold_out,
        delta=options.delta,
        n_draws=options.draws,
        cluster=options.cluster,
    )
    values = {model: one.to_dict() for model, one in found.items()}
    with staged(folder) as new:
        write(new / "surfaces.json", values)
    for model, one in found.items():
        for fit in one.fits:
            say(options, f"{model}, {fit.form_name}: {fit.summary()}\n")
        say(options, f"{model}: {one.summary()}\n")
    for text in errors:
        say(options, f"not fitted: {text}")
    print_json(options, values)
    say(options, f"fits: {folder / 'surfaces.json'}")


def experts(options: Options) -> None:
    """Laws of the loss in the number of experts, compared."""
    table, folder = table_of(options, needs=("n_experts",)), folder_of(options)
    choice = {"model": options.model, "baseline": options.baseline, "size": options.size}
    forms = options.form or DEFAULT_FORMS
    how = {"hold_out": options.hold_out, "residual": options.residual, "cluster": options.cluster}
    found = compare_laws(table, forms, **how, **choice)
    drawn = [fit for fit in found.fits if fit.of_experts_alone]
    slopes = size_slopes(table, **{**choice, "model": found.model}) if drawn else None
    values = {
        **found.to_dict(),
        **({} if slopes is None else {"size_slopes": slopes.to_dict("list")}),
    }
    with staged(folder) as new, figures.style():
        if drawn:
            save(figures.draw_experts(table, drawn, slopes), new / "experts.png")
        write(new / "experts.json", values)
    print_json(options, values)
    for fit in found.fits:
        say(options, f"{fit.form_name}: {fit.summary()}")
        cutoff = fit.cutoff_interval()
        if cutoff is not None and math.isfinite(cutoff[0]):
            say(options, f"  experts cease to help at N of {cutoff[0]:.3g} to {cutoff[1]:.3g}")
        say(options, "")
    say(options, found.summary())
    if slopes is not None:
        say(options, f"\n-d ln L / d ln E of each size:\n{slopes.to_string(index=False)}")
    say(options, f"\nfits: {folder / 'experts.json'}")
    if drawn:
        say(options, f"figure: {folder / 'experts.png'}")


def differences(options: Options) -> None:
    """Models against a baseline, beside the noise of seeds."""
    table, folder = table_of(options, needs=("budget", "seed")), folder_of(options)
    at = at_budgets(table)
    table = at.table
    found: Differences | DifferencesBy
    noise = None if options.noise_of is None else seed_noise(table, budget=options.noise_of)
    if options.by:
        found = compare_by(table, options.by, options.baseline, budget=options.budget, noise=noise)
    else:
        found = compare_models(table, options.baseline, budget=options.budget, noise=noise)
    with staged(folder) as new:
        write(new / "differences.json", found.to_dict())
    print_json(options, found.to_dict())
    say(options, in_unit("\n".join([*at.how, found.summary()]), loss_unit(table)))
    say(options, f"\nfits: {folder / 'differences.json'}")


def adaptation(options: Options) -> None:
    """What runs that started from weights gained on their domain, and lost on other text."""
    table = table_of(options, keep=columns_of_starts(options.general), by_cell=False)
    folder = folder_of(options)
    found = compare_adaptations(table, options.general)
    with staged(folder) as new, figures.style():
        write(new / "adaptation.json", found.to_dict())
        save(figures.draw_adaptation(found), new / "adaptation.png")
    print_json(options, found.to_dict())
    say(options, found.summary())
    say(options, f"\nfits: {folder / 'adaptation.json'}")
    say(options, f"figure: {folder / 'adaptation.png'}")


def adapters(options: Options) -> None:
    """What each way to choose adapters at run time costs."""
    if not Path(options.path).is_dir():
        raise ValueError(f"{options.path} is not a folder; name one with comparisons")
    found, folder = compare_libraries(Path(options.path)), folder_of(options)
    with staged(folder) as new, figures.style():
        write(new / "adapters.json", found.to_dict())
        save(figures.draw_libraries(found), new / "adapters.png")
    print_json(options, found.to_dict())
    say(options, found.summary())
    say(options, f"\nfits: {folder / 'adapters.json'}")
    say(options, f"figure: {folder / 'adapters.png'}")


def growth(options: Options) -> None:
    """What growing gains of what more experts throughout would."""
    table = table_of(options, keep=of_growth.COLUMNS, by_cell=False)
    folder = folder_of(options)
    found = of_growth.compare_growth(table)
    curves = of_growth.read_curves(table, Path(options.path))
    if note := rows_note([run_dir.name for run_dir in lacking_rows(Path(options.path))]):
        print(f"warning: not drawn: {as_typed(note)}", file=sys.stderr)
    with staged(folder) as new, figures.style():
        write(new / "growth.json", found.to_dict())
        if curves:
            save(figures.draw_growth(curves), new / "growth.png")
    print_json(options, found.to_dict())
    say(options, found.summary())
    say(options, f"\nfits: {folder / 'growth.json'}")
    if curves:
        say(options, f"figure: {folder / 'growth.png'}")


def forgetting(options: Options) -> None:
    """What runs that learnt a stream of domains learnt, and what they forgot."""
    source, folder = read_source(options.path, options.separator), folder_of(options)
    records = []
    for record in _records_of(source, table_of(options, source, by_cell=False)):
        why = unreadable(record) if has_learnt(record) else None
        if why is None:
            records.append(record)
        else:
            print(f"warning: excluded: {why}", file=sys.stderr)
    found = compare_forgetting(
        records,
        learning=options.learning,
        baseline=options.baseline,
    )
    with staged(folder) as new, figures.style():
        write(new / "forgetting.json", found.to_dict())
        save(figures.draw_forgetting(found), new / "forgetting.png")
    print_json(options, found.to_dict())
    say(options, found.summary())
    say(options, f"\nfits: {folder / 'forgetting.json'}")
    say(options, f"figure: {folder / 'forgetting.png'}")


def _records_of(source: Source, table: pd.DataFrame) -> list[RunRecord]:
    """Of the runs that the table has."""
    kept = set(table["run_id"].dropna())
    return [record for record in source.records if record.run_id in kept]


def report(options: Options) -> None:
    """Everything, on one page; says on stderr what it is at."""
    source = read_source(options.path, options.separator)
    table, folder = table_of(options, source), folder_of(options)
    check_choices(table, options.baseline, options.asymptote)
    steps = Steps()
    steps(f"{len(table)} runs of {options.path}")
    study = analyse(
        table,
        options.x,
        options.method,
        options.n_nearest,
        noise=options.noise,
        baseline=options.baseline or "dense",
        asymptote=options.asymptote,
        records=_records_of(source, table),
        say=steps,
    )
    title = options.title or f"Experts at equal compute: {options.path.resolve().stem}"
    provenance = provenance_of(source.records, table["run_id"].dropna())
    written = write_report(study, provenance, folder, options.typed, title, say=steps)
    steps.close()
    for what, why in study.missing:
        say(options, as_typed(f"not fitted: {what}: {why}"))
    if options.json:
        print_json(options, study.to_dict())
    say(options, f"report: {written.page}\nfits: {written.fits}\ntable: {written.table}")
    say(options, f"figures: {len(written.figures)} files in {folder / 'figures'}")


def say(options: Options, text: str) -> None:
    if not options.json:
        print(text)


def write(path: Path, values: Any) -> None:
    path.write_text(_as_json(values) + "\n", encoding="utf-8")


def print_json(options: Options, values: Any) -> None:
    if options.json:
        print(_as_json(values))


def _as_json(values: Any) -> str:
    return json.dumps(plain(values), indent=1, allow_nan=False)


def save(figure: Figure, path: Path, unit: str = PER_TOKEN) -> None:
    figures.relabel(figure, unit)
    figure.savefig(path, dpi=160)
    plt.close(figure)
