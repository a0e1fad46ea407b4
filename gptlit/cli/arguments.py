"""Turn what is typed into the form that Hydra reads: flags first, and plain text in quotes.

Hydra answers a broken command line with its parser's errors; the errors raised here name the cure.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from gptlit.cli.checking import empty, meant, nearest
from gptlit.errors import UserError
from gptlit.options import conf_dir

FLAGS = {
    "-h": "--help",
    "-m": "--multirun",
    "-r": "--run",
    "-c": "--cfg",
    "-p": "--package",
    "-i": "--info",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-sc": "--shell-completion",
}
"""Hydra's short names."""
WITH_VALUE: dict[str, tuple[str, ...]] = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),
    "--config-path": (),
    "--config-name": (),
    "--config-dir": (),
}
"""Flags that take a value, and the values that they may have; (): any."""
ALONE = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun")
SHOWS = ("--help", "--hydra-help", "--version", "--cfg", "--info", "--shell-completion")
"""Flags that only show something; Hydra takes one of them at a time."""
MEANS_A_SWEEP = ("hydra.mode=", "launcher=", "hparams_search=")
MADE_FIRST = ("output_root", "hydra.run.dir", "hydra.sweep.dir")
"""Folders that Hydra makes before the config is checked."""
NOTHING = (None, "", "null")
"""What `overrides_by_key` holds for a key that was not given, or was given without a value."""
KEY = re.compile(r"[A-Za-z_$][\w$-]*(?:[./][\w$-]+)*(?:@[\w.$-]*(?::[\w.$-]*)?)?", re.ASCII)
PLAIN = re.compile(r"""[^'"\[\]{}(),\\$=]*""")
"""A value that is not a list, quotation, sweep, function or interpolation."""
CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)
"""In a sweep, the way to give several values to a key whose commas are text."""
UNKNOWN_TO_HYDRA = re.compile(r"[^\w\s/.:+*?|%@~-]|[^\x20-\x7e]")
LONGEST_SHOWN = 80


def read(
    typed: list[str],
    *,
    free_text: Collection[str] = (),
    text_lists: Collection[str] = (),
    short: Mapping[str, str] | None = None,
    known: Callable[[], Collection[str]] = tuple,
) -> list[str]:
    """The command's arguments as Hydra is to see them.

    Args:
        typed: `sys.argv[1:]`.
        free_text, text_lists, short: see `gptlit.cli.app.run`.
        known: keys of the command, for the nearest match.

    Raises:
        UserError: an argument is neither a flag nor an override, or cannot be read.
    """
    for arg in typed:
        if not _is_text(arg):
            raise UserError(f"{_cut(arg)} is not valid UTF-8 text")
    flags, overrides = _split(typed, known)
    if short is not None:
        overrides = _written_out(overrides, short)
    sweeps = "--multirun" in flags or any(arg.startswith(MEANS_A_SWEEP) for arg in overrides)
    for arg in overrides:
        _check_key(arg, known)
    for_hydra = [
        (sweeps and _several(arg, free_text)) or quote(arg, free_text, text_lists)
        for arg in overrides
    ]
    for arg, override in zip(overrides, for_hydra, strict=True):
        _check_value(arg, override, sweeps=sweeps)
    return [*flags, *for_hydra]


def _split(
    typed: Iterable[str], known: Callable[[], Collection[str]]
) -> tuple[list[str], list[str]]:
    """The flags, by their long names and wherever they are typed; and the overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(typed)
    for arg in rest:
        if not arg.startswith("-"):
            overrides.append(arg)
            continue
        name, equals, value = arg.partition("=")
        name = FLAGS.get(name, name)
        if name in WITH_VALUE:
            value = value if equals else next(rest, "") if name != "--info" else "all"
            _check_flag_value(name, value)
            flags += [f"{name}={value}"]
        elif name in (*ALONE, "--shell-completion") and not equals:
            flags.append(name)
        else:
            raise UserError(_unknown_flag(arg, known))
    shows = [flag for flag in flags if flag.partition("=")[0] in (*SHOWS, "--run", "--multirun")]
    if len({flag.partition("=")[0] for flag in shows}) > 1:
        raise UserError(f"{' '.join(dict.fromkeys(shows))}: only one of these can be given")
    if "--resolve" in flags and not {"--cfg", "--help"} & {f.partition("=")[0] for f in flags}:
        raise UserError("--resolve goes with --cfg job")
    return list(dict.fromkeys(flags)), overrides


def _check_flag_value(name: str, value: str) -> None:
    allowed = WITH_VALUE[name]
    if not value or (allowed and value not in allowed):
        wanted = ", ".join(allowed) or "a value"
        raise UserError(f"{name} {_cut(value)}".rstrip() + f": give {wanted} after {name}")


def _unknown_flag(arg: str, known: Callable[[], Collection[str]]) -> str:
    name, equals, _ = arg.partition("=")
    bare = name.lstrip("-")
    keys = [bare] if bare in known() else meant(bare, known())
    if equals and keys:
        shown = " or ".join(f"{key}=..." for key in keys)
        return f"unknown flag {_cut(arg)}: keys are set without dashes, {shown}"
    near = nearest(name, [*ALONE, *WITH_VALUE, *FLAGS])
    hint = f"did you mean {near}?" if near else "known are --help, --multirun (-m) and --cfg job"
    return f"unknown flag {_cut(arg)}: {hint}"


def _check_key(arg: str, known: Callable[[], Collection[str]]) -> None:
    """Check that an override is `key=value`, with or without + or ++ in front, or `~key`."""
    name, equals, _ = arg.partition("=")
    key = name[1:] if name.startswith("~") else re.sub(r"\+{1,2}", "", name, count=1)
    if not equals and not name.startswith("~"):
        near = nearest(arg, known())
        hint = "settings are key=value, and a value with spaces is put in quotes"
        raise UserError(
            f"'{_cut(arg)}' has no '=': " + (f"did you mean {near}=...?" if near else hint)
        )
    if not KEY.fullmatch(key):
        near = nearest(key, known())
        hint = f": did you mean '{near}'?" if near else f"; it stands in '{_cut(arg)}'"
        raise UserError(f"unknown key '{_cut(key)}'{hint}")


def _check_value(arg: str, for_hydra: str, *, sweeps: bool) -> None:
    """Check that Hydra can read it, and that it is one value unless a sweep wants several."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    name, _, value = arg.partition("=")
    try:
        override = OverridesParser.create().parse_override(for_hydra)
    except (HydraException, RecursionError) as error:
        raise UserError(
            f"cannot read {_cut(arg)}: close quotes and brackets, and quote a value with special"
            f" characters: '{name}=\"...\"'"
        ) from error
    if name.lstrip("+") in MADE_FIRST and override.value() == "":
        raise UserError(empty(name, "a folder"))
    is_name = override.value() is None or isinstance(override.value(), str | list | QuotedString)
    if _is_group(name.lstrip("+~")) and not override.is_sweep_override() and not is_name:
        raise UserError(f"{_cut(arg)}: give the name of an option")
    if override.is_sweep_override() and not sweeps:
        plain = "," in value and "(" not in value and not _is_group(name)
        others = f"; a list is {name}=[{_cut(value)}], a text '{name}=\"...\"'" if plain else ""
        raise UserError(
            f"{_cut(arg)} is more than one value: to run all of them give -m too{others}"
        )


def quote(arg: str, free_text: Collection[str], text_lists: Collection[str] = ()) -> str:
    """Quote values that are plain text, for Hydra's grammar: values of free-text keys, names of
    options, which may look like numbers or booleans (debug=true), and text that the grammar does
    not take unquoted (data.path=Bücher, data.path=~/books)."""
    name, equals, value = arg.partition("=")
    ends, key = value[:1] + value[-1:], name.lstrip("+")
    if not equals or not value:
        return arg
    if key in free_text or (key in text_lists and ends != "[]"):
        return arg if value == "null" else f"{name}={quoted(value)}"
    is_group = _is_group(key.partition("@")[0])
    if is_group:
        name = key
    if is_group and value == "null":
        return f"~{key}"  # Hydra's way to choose no option
    if is_group and not set(value) & set("'\"[](){}"):
        return f"{name}={','.join(map(_option, value.split(',')))}"
    is_list = ends == "[]"
    values = [v.strip() for v in value[1:-1].split(",")] if is_list else value.split(",")
    if not all(map(PLAIN.fullmatch, values)):
        return arg
    plain = ",".join(map(_plain, values))
    return f"{name}=[{plain}]" if is_list else f"{name}={plain}"


def _plain(value: str) -> str:
    """A value that is not a list; ~, which shells leave alone after `key.key=`, is written out."""
    if value == "~" or value.startswith("~/"):
        value = str(Path.home()) + value[1:]
    return quoted(value) if value[:1] == "~" or UNKNOWN_TO_HYDRA.search(value) else value


def _several(arg: str, free_text: Collection[str]) -> str | None:
    """The texts in `choice(...)` as a plain list, since Hydra's own functions lose their quotes."""
    name, _, value = arg.partition("=")
    choice = CHOICE.fullmatch(value) if name.lstrip("+") in free_text else None
    return f"{name}={choice[1]}" if choice else None


def _is_group(key: str) -> bool:
    return key.startswith("hydra/") or ("." not in key and (conf_dir() / key).is_dir())


def _option(name: str) -> str:
    return quoted(name.lower() if name.lower() in ("true", "false") else name)


def quoted(text: str) -> str:
    """Text as a quoted string of Hydra's grammar, in which nothing is interpolated."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # A backslash is only special before a quote, or at the end.
    escaped = re.sub(r"(\\*)(\Z|')", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """The text that a quoted string of Hydra's grammar stands for; any other value as it is."""
    mark = value[:1]
    if len(value) < 2 or mark not in ("'", '"') or value[-1] != mark:
        return value
    # The backslashes that `quoted` has doubled or put in front.
    special = rf"(\\+)(?=\$\{{|\Z|{mark})"
    return re.sub(special, lambda slashes: "\\" * (len(slashes[1]) // 2), value[1:-1])


def overrides_by_key(args: Iterable[str]) -> dict[str, str]:
    """The values of a command's overrides, unquoted, by their keys without + and ~. The last value
    of a key counts; that of `~key` is ""."""
    split = (arg.partition("=") for arg in args if not arg.startswith("-"))
    return {name.lstrip("+~"): unquoted(value) for name, _, value in split}


def printable(line: str) -> str:
    """A message in one line, whatever characters the user's words in it have."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return re.sub(r"\S{1000,}", lambda word: f"{word[0][:LONGEST_SHOWN]}...", shown)


def _written_out(args: list[str], short: Mapping[str, str]) -> list[str]:
    """Short names replaced by their keys. debug= is left out: it has been read already, and for
    Hydra it would choose an option.

    Raises:
        UserError: debug is neither true nor false.
    """
    for arg in args:
        if arg.startswith("debug=") and arg.lower() not in ("debug=true", "debug=false"):
            raise UserError(f"{_cut(arg)}: give debug=true or debug=false")
    split = [arg.partition("=") for arg in args if not arg.startswith("debug=")]
    return [short.get(name, name) + equals + value for name, equals, value in split]


def _is_text(arg: str) -> bool:
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
