"""`python -m analysis plan`, `flatness`, `multiplier`, `rates`: from fits to what to train."""

from analysis import figures
from analysis.commands import Options, folder_of, print_json, save, say, table_of, write
from analysis.experts.fit import BACKBONE, fit_expert_law
from analysis.fits import multipliers_of
from analysis.fitting.status import FitError
from analysis.flatness import flatness
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.multiplier.result import frame_of
from analysis.planner import MIN_GAIN, plan
from analysis.rates.fit import BATCH, fit_rates
from analysis.rates.moves import compare_rates
from analysis.staging import staged
from analysis.study import check_choices
from analysis.table.units import in_unit, loss_unit


def planned(options: Options) -> None:
    """What a budget should buy."""
    table = table_of(options, needs=("budget", options.x))
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest)
    models = [options.model] if options.model else [law.model for law in fit.laws]
    if not models:
        raise FitError(f"no power law to plan by: {fit.why_no_laws}")
    law = None
    if options.form:
        law = fit_expert_law(
            table,
            options.form,
            model=options.model,
            baseline=options.baseline,
            size=options.size or BACKBONE,
        )
    plans = {
        model: plan(
            options.budget, fit, model=model, experts=law, min_gain=options.min_gain or MIN_GAIN
        )
        for model in models
    }
    for text in fit.moved:
        say(options, in_unit(f"note: {text}", loss_unit(table)))
    for one in plans.values():
        say(options, one.summary())
    print_json(options, {m: p.to_dict() for m, p in plans.items()})


def flat(options: Options) -> None:
    """What other sizes than the best cost."""
    table, folder = table_of(options, needs=("budget", options.x)), folder_of(options)
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest, noise=options.noise)
    found = flatness(
        fit,
        within=options.within,
        within_compute=options.within_compute,
        baseline=options.baseline,
    )
    with staged(folder) as new:
        write(new / "flatness.json", found.to_dict())
    print_json(options, found.to_dict())
    say(options, in_unit("\n".join([*fit.moved, found.summary()]), loss_unit(table)))
    say(options, f"\nfits: {folder / 'flatness.json'}")


def multiplier(options: Options) -> None:
    """At stated computes and losses, as a forest plot and as curves."""
    table = table_of(options, needs=("budget", options.x))
    folder = folder_of(options)
    check_choices(table, options.baseline, options.asymptote)
    how = {"asymptote": options.asymptote, "slopes": options.slopes}
    if options.points == "lowest":
        found = compute_multipliers(lowest_points(table), options.baseline, **how)
    else:
        fit = fit_isoflop(table, options.x, options.method, options.n_nearest)
        found = multipliers_of(fit, options.baseline, **how)
    stated = found.at(options.at, options.at_loss)
    values = {**found.to_dict(), "at": frame_of(stated).to_dict("records")}
    unit = loss_unit(table)
    with staged(folder) as new, figures.style():
        write(new / "multiplier.json", values)
        save(figures.draw_forest(found, options.at, options.at_loss), new / "forest.png", unit)
        curves = [model for model in found.models if found.over_compute(model, 2)]
        if curves:
            save(figures.draw_multipliers(found), new / "multipliers.png", unit)
    print_json(options, values)
    say(options, in_unit(found.summary(stated), unit))
    say(options, f"\nfits: {folder / 'multiplier.json'}\nfigure: {folder / 'forest.png'}")
    if curves:
        say(options, f"figure: {folder / 'multipliers.png'}")


def rates(options: Options) -> None:
    """The best learning rate of each cell, and the law it follows."""
    if options.baseline and not options.used:
        raise ValueError(
            f"--baseline {options.baseline} is of the differences of --used; give --used PATH too"
        )
    by_batch = options.batch is not None  # else the lowest loss over batches counts
    table = table_of(options, keep=[BATCH], needs=("lr",), by_cell=not by_batch)
    folder = folder_of(options)
    found = fit_rates(
        table,
        width=options.width,
        horizon=options.horizon,
        batch=options.batch,
        n_nearest=options.n_nearest,
        noise=options.noise,
    )
    unit = loss_unit(table)
    values, text = found.to_dict(), found.summary()
    if options.used:
        used = table_of(options, options.used, needs=("lr",))
        moves = compare_rates(found, used, baseline=options.baseline)
        values["moves"], text = moves.to_dict(), f"{text}\n\n{moves.summary()}"
    with staged(folder) as new, figures.style():
        write(new / "rates.json", values)
        save(figures.draw_rates(found), new / "rates.png")
        save(figures.draw_rate_curves(found), new / "rate_curves.png", unit)
    print_json(options, values)
    say(options, in_unit(text, unit))
    say(options, f"\nfits: {folder / 'rates.json'}\nfigure: {folder / 'rates.png'}")
    say(options, f"figure: {folder / 'rate_curves.png'}")
