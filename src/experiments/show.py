"""Shows one run, its curve and what to do with it next: `python -m experiments.show RUN`.

It may be done, running, failed or not begun. Nothing is written.
"""

from pathlib import Path

from experiments.system.command import Parser, exit_codes, needs_train
from experiments.system.disk import reached


def main() -> None:
    """Exit code 0, whatever its state; 2 if it is no run."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="its folder, results/<sweep>/<run_id>")
    options = parser.parse_args()
    with exit_codes():
        from experiments.language.one_page import default_words, read_shown, shown_text

        shown = read_shown(reached(options.run))
        with needs_train():
            from experiments.config.composed import composed
            from experiments.config.hydra_hints import choice_names

            defaults = composed(default_words(shown.config, choice_names("model")))
        print(shown_text(shown, defaults))


if __name__ == "__main__":
    main()
