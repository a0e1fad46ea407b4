"""docs/extending.md keeps its word: its files are written, and its commands run, as they stand but
for a smaller model and fewer steps."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```sh run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SMALL = "model.emb_dim=32 model.n_layers=1 scheduler.warmup_steps=0 logger=csv device=cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with what the page shows."""
    folder = tmp_path_factory.mktemp("extending")
    for name in ("gptlit", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "generate.py"):
        shutil.copy(ROOT / name, folder)
    for name, text in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's commands are for bash")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_do_what_the_page_says(folder: Path, block: str) -> None:
    task = "late" if "task=late" in block else "pretrain"
    ours = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-ec", ours + block.replace("max_steps=100", f"max_steps=2 {SMALL}")],
        cwd=folder,
        env=environment(GPTLIT_CACHE=str(folder / "cache"), GPTLIT_ALLOCATOR="system"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    latest = folder / "outputs" / task / "latest"
    summary = json.loads((latest / "summary.json").read_text())
    assert (summary["task"], summary["steps"]) == (task, 2)
    key = "skip: 4" if task == "late" else "n_lines: 3000"
    assert key in (latest / "config" / "config.yaml").read_text()
    # Of its 16 windows, the task counts the targets behind the first four.
    counted = {"pretrain": 2 * 8 * 128, "late": 2 * 16 * (128 - 4)}
    assert summary["tokens"] == counted[task]
