"""Check a composed config against dataclasses that say what each key means and may be."""

import json
import types
import typing
from collections.abc import Collection
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from gptlit.errors import UserError

MOST_MEANT = 3
"""A message lists the keys that end in a name only if there are no more than this."""


def key(
    meaning: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] | None = None,
    may_be_empty: bool = False,
) -> Any:
    """A field with its meaning (and unit), its bounds or choices, and whether text may be empty."""
    bounds = {">=": ge, ">": gt, "<=": le, "<": lt}
    more = {"choices": choices, "may_be_empty": may_be_empty}
    return field(metadata={"meaning": meaning, "bounds": bounds, **more})


def check(config: dict[str, Any], schema: type, path: str = "") -> None:
    """Check a composed config against a schema.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type or is out of range;
            the line names the key, the value, what is allowed and the nearest name.
    """
    known = {f.name: f for f in fields(schema)}
    hints = typing.get_type_hints(schema)
    for name in config:
        if name not in known:
            raise UserError(unknown_key(f"{path}{name}", [f"{path}{k}" for k in known]))
    for name, spec in known.items():
        if name not in config:
            raise UserError(f"{path}{name} is missing ({spec.metadata['meaning']})")
        _check_value(f"{path}{name}", config[name], hints[name], spec.metadata)


ALSO_CALLED = {"gpu": "cuda"}
"""Names that are common elsewhere, and what we call the same things."""


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The name that was most likely meant; None if none is near."""
    name = ALSO_CALLED.get(name.lower(), name)
    near = get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=cutoff)
    return next((k for k in known if k.lower() == near[0]), None) if near else None


def unknown_key(name: str, known: Collection[str]) -> str:
    """The line for a key that does not exist; it names the keys that end in it, or a near one."""
    inner = sorted(key for key in known if key.endswith(f".{name}"))
    if 0 < len(inner) <= MOST_MEANT:
        return f"unknown key '{name}': did you mean {' or '.join(map(repr, inner))}?"
    if near := nearest(name, [key for key in known if key != name]):
        return f"unknown key '{name}': did you mean '{near}'?"
    depth = min((key.count(".") for key in known), default=0)
    names = sorted(key for key in known if key.count(".") == depth)
    return f"unknown key '{name}'; known are {', '.join(names)}"


def empty(name: str, meaning: str) -> str:
    """The line for a key that is given no value, as in `name=`."""
    return f"{name} is empty: give a value ({meaning})"


def _check_value(name: str, value: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nodes = [option for option in options if is_dataclass(option) and isinstance(option, type)]
    if nodes and not (value is None and types.NoneType in options):
        if not isinstance(value, dict):
            raise UserError(_no_node(name, value, nodes[0]))
        return check(value, nodes[0], f"{name}.")
    if not any(_is(value, option) for option in options):
        wanted = " or ".join(_type_name(option) for option in options)
        raise UserError(f"{name}={_show(value)}: expected {wanted} ({metadata['meaning']})")
    if isinstance(value, str) and metadata["choices"] and value not in metadata["choices"]:
        near = nearest(value, metadata["choices"], cutoff=0.5)
        hint_text = f"; did you mean {near}?" if near else ""
        allowed = ", ".join(metadata["choices"])
        raise UserError(f"{name}={value}: allowed are {allowed}{hint_text}")
    for item in value if isinstance(value, list) else [value]:
        if item == "" and not metadata["may_be_empty"]:
            raise UserError(empty(name, metadata["meaning"]))
        if isinstance(item, int | float) and not isinstance(item, bool):
            _check_bounds(name, item, metadata)
    return None


def _no_node(name: str, value: Any, schema: type) -> str:
    """The line for a value where keys are expected: for a group, or for a node inside an option."""
    if "." not in name:
        return f"{name}={_show(value)} is a group: choose one of its options by name"
    keys = ", ".join(f"{name}.{inner.name}=..." for inner in fields(schema))
    return f"{name}={_show(value)}: it has keys of its own, which are given instead: {keys}"


def _check_bounds(name: str, number: float, metadata: typing.Mapping[str, Any]) -> None:
    tests = {">=": float.__ge__, ">": float.__gt__, "<=": float.__le__, "<": float.__lt__}
    bounds = {sign: bound for sign, bound in metadata["bounds"].items() if bound is not None}
    if not all(tests[sign](float(number), float(bound)) for sign, bound in bounds.items()):
        allowed = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items())
        raise UserError(f"{name}={number}: must be {allowed} ({metadata['meaning']})")


def _is(value: Any, hint: Any) -> bool:
    """Whether a value fits a type, as users see types: 1 is a float, true is not a number."""
    if hint is Any:
        return True
    if hint is types.NoneType:
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin is list:
        [item] = typing.get_args(hint)
        return isinstance(value, list) and all(_is(v, item) for v in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin)


def _type_name(hint: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        types.NoneType: "null",
    }
    if hint in names:
        return names[hint]
    if typing.get_origin(hint) is list:
        return f"a list of {_type_name(typing.get_args(hint)[0]).removeprefix('a ')}s"
    return "a group of keys"


def _show(value: Any) -> str:
    if isinstance(value, str | float):
        return str(value)
    return json.dumps(value, default=str)
