"""The end of a run: `summary.json`, and the link to the newest finished one."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from gptlit.files import replacing

PACKAGES = ("gptlit", "torch", "lightning", "hydra-core", "tiktoken", "numpy")


def write_summary(folder: Path, **facts: Any) -> Path:
    """Write `summary.json`: the facts given, versions of what ran, and the git commit, if any."""
    facts["versions"] = versions()
    facts["git_commit"] = git_commit()
    path = folder / "summary.json"
    with replacing(path) as draft:
        draft.write_text(json.dumps(facts, indent=2) + "\n")
    return path


def mark_latest(folder: Path) -> None:
    """Point the link `latest`, beside the run folder, to it."""
    with replacing(folder.parent / "latest") as draft:
        draft.symlink_to(folder.resolve().name, target_is_directory=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results and speed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout that gptlit runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git on this machine
        return None
    return done.stdout.strip() or None
