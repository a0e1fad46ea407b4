"""The options in `conf/`, for code that does not go through Hydra, and how commands are typed where
that folder came with the package."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptlit.errors import UserError

_ABSENT = object()
_PACKAGED = Path(__file__).resolve().parent / "conf"
_COMMAND = re.compile(r"\bpython (?:scripts/)?([a-z_]+)\.py\b")


def conf_dir() -> Path:
    """`conf/` of the checkout, or its copy inside the installed package."""
    return _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "conf"


def as_typed(text: str) -> str:
    """A text with its commands as they are typed here: an installed package has `gptlit-train` in
    place of `python train.py`."""
    if not _PACKAGED.is_dir():
        return text
    return _COMMAND.sub(lambda match: "gptlit-" + match[1].replace("_", "-"), text)


def option_names(group: str) -> list[str]:
    """The options of a group, sorted: `option_names("model")` has "gpt2-small"."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def options_with(key: str) -> list[str]:
    """The options of a key's group that have the key; if some of them require it, only those:
    `options_with("data.path")` has "text"."""
    group, _, inner = key.partition(".")
    values: dict[str, Any] = {}
    for name in option_names(group):
        option = read_option(group, name)
        node: Any = option.get(group, option)  # some set keys of other groups too
        for part in inner.split("."):
            node = node.get(part, _ABSENT) if isinstance(node, dict) else _ABSENT
        if node is not _ABSENT:
            values[name] = node
    return [name for name, value in values.items() if value == "???"] or list(values)


def read_option(group: str, name: str) -> dict[str, Any]:
    """One option, from its file and from those that the file builds on, as plain values.

    Raises:
        UserError: there is no such option.
    """
    names = option_names(group)
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown {group}={name}: allowed are {', '.join(names)}{hint}")
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{name}.yaml"))
    bases = [base for base in node.pop("defaults", []) if isinstance(base, str)]
    values: dict[str, Any] = {}
    for base in bases:
        if base != "_self_":
            values |= read_option(group, base)
    return values | {str(key): value for key, value in node.items()}


def model_shape(name: str) -> dict[str, Any]:
    """The fields of `GPTConfig` in an option of `conf/model`. Raises UserError as `read_option`."""
    return {key: value for key, value in read_option("model", name).items() if key != "name"}
