"""The house stays tidy: who may import whom, and what every file owes its reader."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gptlit"
FILES = sorted(PACKAGE.rglob("*.py"))

BELOW_CLI = {
    "data",
    "device",
    "download",
    "errors",
    "evaluation",
    "inference",
    "model",
    "options",
    "tasks",
    "tokenizer",
    "training",
    "weights",
}
MAY_IMPORT = {
    "errors": set(),
    "model": set(),
    "tokenizer": set(),
    "device": {"errors"},
    "download": {"errors"},
    "options": {"errors"},
    "weights": {"model", "errors", "download", "options"},
    "data": {"tokenizer", "errors", "download"},
    "tasks": {"model", "errors"},
    "inference": {"model", "tokenizer", "tasks", "device", "errors", "weights", "options"},
    "evaluation": BELOW_CLI - {"training"},
    "training": BELOW_CLI,
    "cli": BELOW_CLI,
    "gptlit": BELOW_CLI,
}
"""Rooms of the package, and those that each may import besides itself; `gptlit` is the front door,
which hands out names on demand."""

CONFIG = {"hydra": {"cli"}, "omegaconf": {"cli", "options"}}
"""Who knows how configs are made."""


def room(file: Path) -> str:
    """The folder of a file, or the file itself, below the package."""
    part = file.relative_to(PACKAGE).parts[0]
    return "gptlit" if part == "__init__.py" else part.removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT).with_suffix("").parts[: -node.level or None]
            module = ".".join([*package, node.module or ""] if node.level else [node.module or ""])
            for alias in node.names:
                yield node.lineno, f"{module.strip('.')}.{alias.name}"


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_rooms_import_only_what_they_may(file: Path) -> None:
    here = room(file)
    assert here in MAY_IMPORT, f"{here} is a new room: say above whom it may import"
    for line, module in imports(file):
        top, *rest = module.split(".")
        if top == "gptlit" and rest and rest[0] != here:
            there = rest[0]
            assert there in MAY_IMPORT[here], f"{name(file)}:{line} imports gptlit.{there}"
        if top in CONFIG:
            assert here in CONFIG[top], f"{name(file)}:{line} imports {top}"


def loaded_by(statement: str) -> set[str]:
    """Top-level modules after an import, in a process of its own."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {module.partition(".")[0] for module in json.loads(done.stdout)}


HEAVY = {"hydra", "omegaconf", "lightning", "pytorch_lightning", "tensorflow", "transformers"}


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import gptlit", {*HEAVY, "torch", "numpy"}),
        ("import gptlit.cli.train, gptlit.cli.generate", {*HEAVY, "torch", "numpy"}),
        ("import gptlit.model", HEAVY),
        ("import gptlit.inference.generation", HEAVY),
    ],
)
def test_an_import_brings_only_what_it_needs(statement: str, never: set[str]) -> None:
    assert not loaded_by(statement) & never


def test_every_advertised_name_is_there() -> None:
    import gptlit

    assert all(getattr(gptlit, name) is not None for name in gptlit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        gptlit.lod  # noqa: B018


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 350


def undocumented(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Public classes, functions and methods without a docstring.

    Config nodes describe each of their fields instead, and a method that says `override` or has
    a private class around it has its reader elsewhere.
    """
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if child.name.startswith("_"):
            continue
        fields = [item for item in child.body if isinstance(item, ast.AnnAssign)]
        is_node = isinstance(child, ast.ClassDef) and fields and all(map(described, fields))
        if not ast.get_docstring(child) and not is_node:
            yield f"{prefix}{child.name}"
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{prefix}{child.name}.")


def described(field: ast.AnnAssign) -> bool:
    """Whether a dataclass field is a `key("meaning", ...)`."""
    call = field.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "key"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_is_public_is_explained(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module"
    assert list(undocumented(tree)) == []


@pytest.mark.parametrize("file", sorted((ROOT / "conf").rglob("*.yaml")), ids=name)
def test_every_option_says_what_it_is(file: Path) -> None:
    lines = file.read_text().splitlines()
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        comments.append(line)
    assert any(not line.startswith("# @package") for line in comments)
