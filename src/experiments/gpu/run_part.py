"""Runs one part in this process: `python -m experiments.gpu.run_part NAME ...`, for the command."""

import argparse
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Exit code 1, and the reason in the report, if the part fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":  # read when triton is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    _run(options)


def _run(options: argparse.Namespace) -> None:
    from experiments.gpu.job import Job, LeftOut
    from experiments.gpu.report import DONE, FAILED, LEFT_OUT, Report
    from experiments.system.environment import exact_products, flush_denormals

    exact_products()  # as training has it
    flush_denormals(True)

    if options.toy:
        from experiments.gpu.toy import shorten

        shorten()
    begin = time.monotonic()
    report = Report(options.folder)
    job = Job(
        part=options.name,
        device=options.device,
        toy=options.toy,
        report=report,
        deadline=begin + options.seconds,
    )
    status, why = DONE, ""
    try:
        import_module(f"experiments.gpu.parts.{options.name}").run(job)
    except LeftOut as reason:
        status, why = LEFT_OUT, str(reason)
    except Exception as error:
        traceback.print_exc()
        last = (str(error).strip().splitlines() or [""])[-1]
        status, why = FAILED, f"{type(error).__name__}: {last}"
    report.end(options.name, status, time.monotonic() - begin, why)
    if report.parts[options.name]["status"] == FAILED:
        sys.exit(1)


if __name__ == "__main__":
    main()
