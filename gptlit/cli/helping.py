"""`--help`. Hydra's own help takes a second: it copies all settings for each folder of options."""

import contextlib
import io
import string
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from gptlit.options import as_typed, conf_dir

HELP, CONFIG = "--help", "--cfg=job"
"""The flag, and the flag that Hydra gets instead, which composes the same config and shows it."""


def print_help(config_name: str, args: Iterable[str], show_config: Callable[[], int]) -> int:
    """Print the text `hydra.help.template` of a command, with its placeholders filled in.

    Args:
        config_name: file in `conf/`.
        args: the command's, as Hydra is to see them.
        show_config: prints the config.

    Returns:
        what `show_config` returns.
    """
    from omegaconf import DictConfig, OmegaConf

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        result = show_config()
    if config := shown.getvalue():
        main: Any = OmegaConf.load(conf_dir() / f"{config_name}.yaml")
        named = {name for entry in main.defaults if isinstance(entry, DictConfig) for name in entry}
        groups = _groups(conf_dirs(args), named)
        template = string.Template(as_typed(main.hydra.help.template))
        print(template.substitute(APP_CONFIG_GROUPS=groups, CONFIG=config))
    return result


def conf_dirs(args: Iterable[str]) -> list[Path]:
    """The folders of options of a command: gptlit's, and the user's own."""
    own = (arg.partition("=")[2] for arg in args if arg.startswith("--config-dir="))
    return [conf_dir(), *map(Path, own)]


def _groups(folders: Iterable[Path], named: Collection[Any]) -> str:
    """A line for each named group, with its options."""
    options: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.yaml"):
            options.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    shown = sorted(options.keys() & named)
    return "".join(f"{group}: {', '.join(sorted(options[group]))}\n" for group in shown)
