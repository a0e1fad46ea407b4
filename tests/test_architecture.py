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
TREES = {file: ast.parse(file.read_text()) for file in FILES}

BELOW_CLI = {
    "data",
    "device",
    "download",
    "errors",
    "evaluation",
    "figures",
    "files",
    "inference",
    "journal",
    "model",
    "options",
    "predictions",
    "prompts",
    "tasks",
    "tokenizer",
    "training",
    "weights",
}
MAY_IMPORT = {
    "errors": set(),
    "figures": {"files"},
    "files": set(),
    "model": set(),
    "tokenizer": set(),
    "device": {"errors"},
    "journal": {"errors"},
    "download": {"errors"},
    "options": {"errors"},
    "predictions": set(),
    "prompts": {"errors", "tokenizer"},
    "weights": {"model", "errors", "files", "download", "options"},
    "data": {"tokenizer", "errors", "files", "download", "prompts"},
    "tasks": {"model", "errors", "predictions", "prompts"},
    "inference": {"model", "tokenizer", "prompts", "device", "errors", "weights", "options"},
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
    for node in ast.walk(TREES[file]):
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
        ("import gptlit.inference.lookup, gptlit.weights.fetch", {*HEAVY, "torch", "numpy"}),
        ("import gptlit.training.plots, gptlit.training.reuse", {*HEAVY, "torch"}),
        ("import gptlit.model", HEAVY),
        ("from gptlit import load", HEAVY),
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


def public(node: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[str, bool]]:
    """Name, and whether it is explained, of public classes, functions and methods."""
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
            continue
        fields = [item.value for item in child.body if isinstance(item, ast.AnnAssign)]
        is_config_node = bool(fields) and all(map(is_key, fields))
        yield f"{owner}{child.name}", is_config_node or bool(ast.get_docstring(child))
        if isinstance(child, ast.ClassDef):
            yield from public(child, f"{child.name}.")


def is_key(value: ast.expr | None) -> bool:
    """Whether a field of a config node says what it means: `key("meaning", ...)`."""
    function = value.func if isinstance(value, ast.Call) else None
    return isinstance(function, ast.Name) and function.id == "key"


EXPLAINED_METHODS = {
    name.rpartition(".")[2]
    for tree in TREES.values()
    for name, explained in public(tree)
    if explained and "." in name
}
"""A method that several classes have is explained where it is first promised."""


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_is_public_is_explained(file: Path) -> None:
    assert ast.get_docstring(TREES[file]), "the module says nothing about itself"
    silent = [name for name, explained in public(TREES[file]) if not explained]
    assert [name for name in silent if name.partition(".")[2] not in EXPLAINED_METHODS] == []


@pytest.mark.parametrize("file", sorted((ROOT / "conf").rglob("*.yaml")), ids=name)
def test_every_option_says_what_it_is(file: Path) -> None:
    lines = file.read_text().splitlines()
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        comments.append(line)
    assert any(not line.startswith("# @package") for line in comments)


def test_it_starts_where_pytorch_has_no_onednn() -> None:
    """As PyTorch for Apple's processors."""
    code = """
import torch
from torch._ops import _OpNamespace
class Empty(_OpNamespace):
    def __getattr__(self, name):
        raise AttributeError(name)
torch.ops.__dict__["mkldnn"] = Empty("mkldnn")
import gptlit.training.run
from gptlit.errors import UserError
from gptlit.inference.placement import place
from gptlit.model import GPTConfig, GPTModel
model = GPTModel(GPTConfig(vocab_size=9, context_length=8, emb_dim=8, n_heads=1, n_layers=1))
try:
    place(model, "cpu", "bf16")
except UserError as error:
    print(error)
print(place(model, "cpu", "auto")[1:])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "precision=bf16 needs AVX-512" in done.stdout and "('cpu', 'fp32')" in done.stdout
