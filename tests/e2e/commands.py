"""Run the commands as users do: in a process of their own."""

import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from forked import LEAN, ROOT, Starter

TINY = (
    "tokenizer=byte",
    "device=cpu",
    "model.emb_dim=32",
    "model.n_heads=2",
    "model.n_layers=2",
    "model.context_length=32",
    "logger=csv",
)
"""Overrides for a model that trains in no time."""


def command(script: str, *args: str) -> list[str]:
    """The command line of `python <script>.py args...`."""
    return [sys.executable, str(ROOT / f"{script}.py"), *args]


def environment(*, lean: bool = True, **more: str) -> dict[str, str]:
    """One thread, so that results are the same whatever else runs; caches as the caller says.
    Unless `lean` is false, without the packages that users need not have."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}
    paths = [env["PYTHONPATH"]] if env.get("PYTHONPATH") else []
    return env | ({"PYTHONPATH": os.pathsep.join([*paths, str(LEAN)])} if lean else {})


@cache
def starter() -> Starter:
    """The program that forks the commands of this process."""
    return Starter(environment())


def run(
    script: str, *args: str, cwd: Path, stdin: str = "", timeout: float = 240, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in `cwd`; forked, see `forked`."""
    env = {"GPTLIT_CACHE": str(cwd / "cache"), **env}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("stdin", "out", "err")}
        files["stdin"].write_text(stdin)
        process = starter().start(script, *args, cwd=cwd, **files, **env)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        said = (files[name].read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(command(script, *args), code, *said)


def run_anew(
    script: str, *args: str, cwd: Path, stdin: str = "", timeout: float = 240, **env: str
) -> subprocess.CompletedProcess[str]:
    """`run`, with all that comes before the command's own work."""
    return subprocess.run(
        command(script, *args),
        cwd=cwd,
        env=environment(GPTLIT_CACHE=str(cwd / "cache"), **env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def write_corpus(path: Path, n_lines: int = 400) -> Path:
    """A small text with some structure to learn."""
    lines = [f"line {i} says that {i} and {i + 1} are neighbours.\n" for i in range(n_lines)]
    path.write_text("".join(lines))
    return path
