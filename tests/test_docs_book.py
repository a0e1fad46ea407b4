"""docs/book.md keeps its word: its Python runs, and the names, keys and options that it points to
are there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment

from gptlit.cli.mistakes import config_keys
from gptlit.options import option_names

PAGE = (ROOT / "docs" / "book.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python offline\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACES = re.findall(r"`((?:gptlit|scripts)/\w[\w/]*\.py)`(?:: ((?:`\w+`(?:, )?)+))?", PAGE)
OVERRIDES = sorted(set(re.findall(r"(?<=[ `])([a-z_.]+)=([\w-]+|\"[^\"]*\")", BLOCK.sub("", PAGE))))
BY_HAND, *WITH_TRAINER = BLOCK.findall(PAGE)
COMMANDS = ("train", "generate", "evaluate")


@pytest.mark.parametrize(
    "block", [BY_HAND, "".join(WITH_TRAINER)], ids=["by hand", "with a Trainer"]
)
def test_the_python_runs(tmp_path: Path, block: str) -> None:
    rows = (f"{'good' if i % 2 else 'bad'} {i},{i % 2}\n" for i in range(40))
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(rows))
    (tmp_path / "the-verdict.txt").write_text("It was not till three years later. " * 100)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment(GPTLIT_CACHE=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_it_points_to_is_there() -> None:
    assert len(PLACES) > 20
    for file, names in PLACES:
        defined = {
            node.name
            for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert set(re.findall(r"\w+", names)) <= defined, file


@pytest.mark.parametrize(("key", "value"), OVERRIDES)
def test_what_is_typed_is_understood(key: str, value: str) -> None:
    groups = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
    if key in groups:
        assert value in option_names(key)
    else:
        assert any(key in config_keys(command) for command in COMMANDS)
