"""`launcher=` and `hparams_search=`: what they mean besides their files in `conf/`."""

import shutil
from importlib.util import find_spec

from gptlit.cli.arguments import NOTHING, SHOWS, overrides_by_key
from gptlit.errors import UserError

PLUGINS = {
    "launcher=local": ("hydra_joblib_launcher", "sweeps"),
    "launcher=slurm": ("hydra_submitit_launcher", "slurm"),
    "hparams_search=optuna": ("hydra_optuna_sweeper", "sweeps"),
}
"""The plugin of Hydra that an option needs, and the extra of gptlit that installs it."""


def apply(args: list[str]) -> list[str]:
    """Make the command a sweep if it has either option, even without -m.

    Raises:
        UserError: the option's plugin is not installed, or there is no Slurm here.
    """
    given = overrides_by_key(args)
    chosen = {group: given.get(group) for group in ("launcher", "hparams_search")}
    asked = [f"{name}={option}" for name, option in chosen.items() if option not in NOTHING]
    for option in asked:
        if option in PLUGINS:
            _check_plugin(option)
    if "launcher=slurm" in asked and shutil.which("srun") is None:
        raise UserError(
            "launcher=slurm: this machine has no Slurm (no srun in PATH): start it on a login node"
            " of a cluster, or choose launcher=local"
        )
    said = any(arg.partition("=")[0] in (*SHOWS, "--run", "--multirun") for arg in args)
    if asked and not said:
        args = ["--multirun", *args]
    return _last_of_each(args) if "--multirun" in args else args


def _last_of_each(args: list[str]) -> list[str]:
    """The value given last wins, as in a single run: of a key that is given twice, Hydra's sweepers
    would run all combinations, and Optuna's take a single value though others follow."""
    last = {next(iter(overrides_by_key([arg])), arg): number for number, arg in enumerate(args)}
    return [args[number] for number in sorted(last.values())]


def _check_plugin(option: str) -> None:
    plugin, extra = PLUGINS[option]
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None:
        raise UserError(f"{option} is not installed: pip install 'gptlit[{extra}]'")
