"""Where a sweep stands: `python -m experiments.status NAME [--watch]`."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from experiments.cli import exit_codes, sweep_argument, sweep_folder


def main() -> None:
    """Exit code 0, whatever the state; 2 if there is no such sweep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between (default 5)")
    parser.add_argument("--json", action="store_true", help="a JSON object a point and line")
    options = parser.parse_args()
    with exit_codes():
        from experiments.sweep.states import read_states
        from experiments.sweep.status_table import status_table

        folder = sweep_folder(options)
        while True:
            points = read_states(folder)
            if options.json:
                print("\n".join(json.dumps(asdict(point)) for point in points), flush=True)
            else:
                clear = "\033[H\033[2J" if options.watch and sys.stdout.isatty() else ""
                print(clear + status_table(folder.name, points), flush=True)
            if not options.watch or all(p.state in ("done", "diverged", "failed") for p in points):
                return
            try:
                time.sleep(options.every)
            except KeyboardInterrupt:
                return


if __name__ == "__main__":
    main()
