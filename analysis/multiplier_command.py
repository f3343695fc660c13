"""`python -m analysis multiplier`: compute multipliers of a table's models over a baseline."""

from analysis import figures
from analysis.commands import Options, folder_of, print_json, save, say, table_of, write
from analysis.fits import multipliers_of
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.multiplier.result import frame_of
from analysis.staging import staged
from analysis.study import check_choices
from analysis.table.units import in_unit, loss_unit


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
