"""From a sweep's runs to fitted laws, figures and a report: `python -m analysis report PATH`."""

import argparse
import os
import shlex
import sys
from functools import partial

from analysis.parser import make_parser
from analysis.settings import settings_named
from experiments.system.plain_text import printable, shortened, visible


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input, 1 what the machine denies, 130 interrupted; each but the
    first with one line on stderr, and nothing written.
    """
    options = make_parser(__doc__).parse_args(arguments)
    # what loads pandas comes after --help
    import matplotlib as mpl

    from analysis.options import as_option, declared

    words = sys.argv[1:] if arguments is None else arguments
    options.typed = shlex.join(["python", "-m", "analysis", *map(str, words)])
    mpl.use("Agg")
    with visible(), settings_named(partial(as_option, declared(options))):
        return _exit_code(options)


def _exit_code(options: argparse.Namespace) -> int:
    from analysis.options import check_options

    try:
        check_options(options)
        options.chosen.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has read enough, e.g. head
        _drop_output()
    except KeyboardInterrupt:
        return _refuse("interrupted; nothing was written", 130)
    except ValueError as error:
        return _refuse(str(error), 2)
    except OSError as error:
        where = error.filename
        if where is None:  # printing is all that is done without a name
            _drop_output()
            return _refuse(f"can't print: {error.strerror or error}; free some space", 1)
        return _refuse(f"{where}: {error.strerror}; make it readable, or name another", 1)
    except RuntimeError as error:
        return _refuse(str(error), 1)
    except MemoryError:
        return _refuse("the memory does not suffice; take fewer runs, e.g. by --where", 1)
    return 0


def _refuse(why: str, code: int) -> int:
    print(f"error: {printable(shortened(' '.join(why.split())))}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Sends the rest of the output nowhere, so that Python doesn't try it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
