"""The built wheel works outside the repository, with the configs that it carries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, TINY, environment, write_corpus


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, built without network from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder), ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("gptlit-*.whl")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    target = folder / "site"
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    return target


def console_command(site: Path, name: str, *args: str, cwd: Path) -> str:
    """Run an installed console command, with the unpacked wheel in front of everything else."""
    env = environment(PYTHONPATH=str(site), GPTLIT_CACHE=str(cwd / "cache"))
    script = [sys.executable, str(site / "bin" / name), *args]
    done = subprocess.run(script, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_commands_train_and_generate_in_an_empty_directory(
    site: Path, tmp_path: Path
) -> None:
    assert not list(tmp_path.iterdir())
    where = [sys.executable, "-c", "import gptlit; print(gptlit.__file__)"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))
    corpus = write_corpus(tmp_path / "corpus.txt")
    args = (*TINY, "data=text", f"data.path={corpus.name}", "trainer.max_steps=3")
    said = console_command(site, "gptlit-train", *args, cwd=tmp_path)
    assert "next:       gptlit-generate ckpt=outputs/pretrain/" in said
    text = console_command(site, "gptlit-generate", "prompt=line", "max_new_tokens=3", cwd=tmp_path)
    assert text.startswith("line")
    told = console_command(site, "gptlit-export", "--help", cwd=tmp_path)
    assert "gptlit-export ckpt=" in told and ".py" not in told
