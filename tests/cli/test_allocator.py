"""A command restarts itself once with a tuned malloc, and nobody notices."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gptlit.cli.allocator import OFF, tunables

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
with open("starts.jsonl", "a") as file:
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    print(json.dumps([sys.argv[2:], tuned, sys.flags.dont_write_bytecode]), file=file)
from gptlit.cli.allocator import restart_with_tuned_malloc
restart_with_tuned_malloc()
print("at work", flush=True)
sys.exit(7)
"""

on_glibc = pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
    reason="tunes glibc's malloc on Linux",
)


def starts(folder: Path, *args: str, **env: str) -> list[list[object]]:
    """What the process saw at each of its starts."""
    (folder / "script.py").write_text(SCRIPT)
    base = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD", OFF)}
    done = subprocess.run(
        [sys.executable, "-B", "script.py", str(ROOT), *args],
        cwd=folder,
        env={**base, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "at work\n", "")
    lines = (folder / "starts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@on_glibc
def test_it_restarts_once_with_the_same_arguments(tmp_path: Path) -> None:
    args = ["seed=1", 'prompt=it\'s, "so" $HOME', "", "-m"]
    first, second = starts(tmp_path, *args)
    assert first == [args, "", 1]
    assert second == [args, tunables(), 1]


@on_glibc
def test_tunables_of_other_parts_of_glibc_are_kept(tmp_path: Path) -> None:
    other = "glibc.rtld.optional_static_tls=1024"
    _, second = starts(tmp_path, GLIBC_TUNABLES=other)
    assert second[1] == f"{other}:{tunables()}"


@pytest.mark.parametrize(
    "env",
    [{OFF: "system"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}],
    ids=["switched off", "tuned by the user"],
)
def test_it_leaves_the_users_choice_alone(tmp_path: Path, env: dict[str, str]) -> None:
    assert starts(tmp_path, **env) == [[[], env.get("GLIBC_TUNABLES", ""), 1]]
