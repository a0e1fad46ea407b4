"""Which folder a run gets, while others have theirs."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

from gptlit.cli.locks import Lock, refuse
from gptlit.training.lock import LOCK

TAKE = """
import sys
from pathlib import Path
from gptlit.training.lock import take
for folder in sys.argv[1:]:
    take(Path(folder))
print("taken", flush=True)
sys.stdin.read()
"""


def taken(*folders: Path) -> subprocess.Popen[str]:
    """A process that has the folders until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    return process


def config(folder: str) -> DictConfig:
    setup_globals()
    return OmegaConf.create({"hydra": {"run": {"dir": folder}}})


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    node = config(f"{tmp_path}/${{now:%Y}}")
    year = Path(node.hydra.run.dir)
    with taken(year, year.with_name(f"{year.name}_2")):
        Lock().on_run_start(node)
        assert node.hydra.run.dir == f"{year}_3"
        assert Path(f"{year}_3", LOCK).is_file()


def test_a_run_that_has_ended_keeps_its_folder(tmp_path: Path) -> None:
    """Another may begin within the same second."""
    node = config(f"{tmp_path}/${{now:%Y}}")
    year = Path(node.hydra.run.dir)
    (year / "config").mkdir(parents=True)
    Lock().on_run_start(node)
    assert node.hydra.run.dir == f"{year}_2"
    assert [path.name for path in year.iterdir()] == ["config"]


def test_a_folder_that_was_given_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = config(str(tmp_path / "mine"))
    with taken(tmp_path / "mine"), pytest.raises(SystemExit) as caught:
        Lock().on_run_start(node)
    assert caught.value.code == 2
    assert f"{tmp_path / 'mine'} is in use" in capsys.readouterr().err
    assert node.hydra.run.dir == str(tmp_path / "mine")


def test_a_refusal_is_no_command_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        refuse("run is in use: \x1b]0;owned\x07")
    assert capsys.readouterr().err == "error: run is in use: \\x1b]0;owned\\x07\n"
