"""Only entry to training: `python -m experiments.run model=peer size=4 budget=1e12`.

Composes with Hydra, plans, trains, records. With -m and comma lists: a sweep. Bad input ends
with one line and exit code 2, before anything is written; a failed run with exit code 1.
"""

import os
import re
import sys

from experiments.config.composed import resolve
from experiments.config.hydra_hints import appended, choice_names, normalized
from experiments.config.paths import conf_dir
from experiments.sweep.app import FIRST, of_app
from experiments.system.command import exit_codes, needs_train
from experiments.system.credentials import refuse_credentials
from experiments.system.version import version_line

with needs_train():
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import ConfigCompositionException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    from experiments.config.hydra_version import VERSION_BASE
    from experiments.config.quick_yaml import quick_yaml
    from experiments.config.sweep_mode import with_mode


@hydra.main(config_path=str(conf_dir()), config_name="config", **VERSION_BASE)
@of_app(FIRST)
def _run(config: DictConfig) -> float | None:
    """Returns the held-out loss, for sweepers of others that look for the lowest."""
    with exit_codes():  # here, not only in main: Hydra would print a line of its own first
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.RUN:
            search = ["hydra.sweeper.search"] * (hydra.sweeper.get("search") is not None)
            for word in (*search, *hydra.overrides.hydra):
                if re.match(r"\+*hydra[./](sweeper|launcher)\b", word):
                    raise ValueError(f"{word} is of many runs; add -m")
        from experiments.sweep.one_run import run_one  # seconds of imports

        composed = OmegaConf.merge({"hydra": hydra}, config)
        assert isinstance(composed, DictConfig)
        return run_one(resolve(composed))
    raise AssertionError("exit_codes lets every error out")


def main() -> None:
    """Console script's entry. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if "--version" in sys.argv[1:]:  # Hydra's would print its own alone
        print(version_line())
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing and exiting 1
    with exit_codes():
        refuse_credentials("the command line", sys.argv[1:])
        with quick_yaml():
            words: list[str] | None = with_mode(normalized(sys.argv[1:]))
        while words is not None:
            sys.argv[1:] = words
            try:
                with quick_yaml():
                    _run()
                return
            except SystemExit as end:
                if {"-h", "--help"} & {*words} and not end.code:  # Hydra's names no launcher
                    print(f"hydra/launcher, with -m: {', '.join(choice_names('hydra/launcher'))}")
                raise
            except ConfigCompositionException as error:
                words = appended(sys.argv[1:], error)
                if words is None:
                    raise
                GlobalHydra.instance().clear()


if __name__ == "__main__":
    main()
