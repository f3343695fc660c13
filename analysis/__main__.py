"""`python -m analysis isoflop PATH`: a sweep's table, fits and figure, from its records."""

import argparse
import json
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis.figures import draw_isoflop
from analysis.isoflop import X_NAMES, fit_isoflop
from analysis.results import FitError
from analysis.table import load_table


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 drawn, 2 bad input (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    isoflop = commands.add_parser(
        "isoflop",
        help="fit and draw a sweep's isoFLOP curves",
        description="Writes table.csv, isoflop.json and isoflop.png beside the records and prints "
        "the perplexities and the fitted minima.",
    )
    isoflop.add_argument("path", type=Path, help="a sweep's folder, e.g. results/demo")
    isoflop.add_argument("--x", default="n_params", choices=X_NAMES, help="the size to fit against")
    isoflop.add_argument("--json", action="store_true", help="print the fits as JSON instead")
    options = parser.parse_args(arguments)
    try:
        _isoflop(options.path, options.x, options.json)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _isoflop(folder: Path, x: str, as_json: bool) -> None:
    mpl.use("Agg")
    table = load_table(folder)
    table_path, json_path = folder / "table.csv", folder / "isoflop.json"
    figure_path = folder / "isoflop.png"
    table.to_csv(table_path, index=False)
    try:
        fit = fit_isoflop(table, x)
    except FitError as error:
        print(f"{perplexities(table)}\n\ntable: {table_path}")
        raise error
    text = json.dumps(fit.to_dict(), indent=1)
    json_path.write_text(text + "\n")
    draw_isoflop(table, fit).savefig(figure_path, dpi=160)
    if as_json:
        print(text)
        return
    print(perplexities(table))
    print(f"\nFitted minima:\n{fit.summary()}")
    print(f"\ntable: {table_path}\nfits: {json_path}\nfigure: {figure_path}")


def perplexities(table: pd.DataFrame) -> str:
    """Held-out perplexity, a row for each budget and size, a column for each model."""
    done = table[table["status"] == "done"]
    wide = done.pivot_table(
        index=["budget", "n_layers", "d_model"], columns="model", values="perplexity", aggfunc="min"
    )
    text = wide.to_string(float_format=lambda value: f"{value:.2f}")
    lines = ["Held-out perplexity per token (best of a cell):", text]
    leaky = sorted(done.loc[~done["causal_eval"].astype(bool), "model"].unique())
    if leaky:
        lines += [f"{', '.join(leaky)}: scored with routing that sees later tokens; not causal"]
    other = table[table["status"] != "done"]
    if len(other):
        lines += [f"not shown: {len(other)} runs that failed or diverged"]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
