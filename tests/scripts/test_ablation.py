"""scripts/ablation.py: one table of many runs, which survives what happens to one of them."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import ablation
import pytest
from matplotlib.figure import Figure

from gptlit.errors import UserError
from gptlit.training import reuse

TRAIN = '''
"""In place of train.py: leaves the command, and a summary."""
import json, sys
from pathlib import Path
from omegaconf import OmegaConf
args = dict(arg.split("=", 1) for arg in sys.argv[1:])
folder = Path(OmegaConf.from_dotlist(["x=" + args["hydra.run.dir"]]).x)
folder.mkdir(parents=True, exist_ok=True)
(folder / "command.json").write_text(json.dumps(args))
stopped, other = folder / "stopped", folder / "other"
if other.exists():
    sys.exit("error: x holds a run of another config already: choose another folder with ...")
if stopped.exists() and "resume" not in args:
    sys.exit("error: x holds a run already: to go on with it add resume=auto; else choose ...")
if args.get("data.path") == "none":
    sys.exit("error: data.path=none: there is no such file")
metrics = {"train/accuracy": 1.0, "val/accuracy": 0.5}
(folder / "summary.json").write_text(json.dumps({"metrics": metrics, "seconds": 90}))
'''


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(ablation, "TRAIN", tmp_path / "train.py")
    return tmp_path / "a table"


def table(monkeypatch: pytest.MonkeyPatch, out: Path, *args: str) -> tuple[int, list[list[str]]]:
    """The exit code, and the rows of the table."""
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--out", str(out), *args])
    code = ablation.main()
    with (out / "ablation.csv").open(newline="") as file:
        return code, list(csv.reader(file))[1:]


def test_a_row_has_its_own_overrides_and_those_of_all(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--rows", "8", "10", "--", "model=gpt2-nano", "weights=book", "data.path=a=b")
    code, rows = table(monkeypatch, out, *args)
    assert code == 0
    assert [row[0] for row in rows] == ["8", "10"]
    # A split that was not measured has no figure, nor has one that the book has not.
    assert rows[0][2:] == ["100.00", "50.00", "", "1.50", "99.81", "", "98.33", ""]
    assert (out / "ablation.png").exists()
    of_xl, of_random = (
        json.loads((out / f"row-{n}" / "command.json").read_text()) for n in ("8", "10")
    )
    assert (of_xl["model"], of_xl["weights"]) == ("gpt2-xl", "book")
    assert (of_random["model"], of_random["weights"]) == ("gpt2-nano", "none")
    assert of_xl["data.path"] == "a=b"


def test_a_row_that_was_stopped_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "row-1").mkdir(parents=True)
    (out / "row-1" / "stopped").touch()
    code, [[*_, error]] = table(monkeypatch, out, "--rows", "1")
    assert (code, error) == (0, "")
    assert json.loads((out / "row-1" / "command.json").read_text())["resume"] == "auto"


def test_a_row_that_fails_leaves_the_others(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "row-2").mkdir(parents=True)
    (out / "row-2" / "other").touch()
    code, rows = table(monkeypatch, out, "--rows", "1", "2")
    assert code == 1
    assert [bool(row[2]) for row in rows] == [True, False]
    assert rows[1][-1] == f"{out}/row-2 holds a run with other settings: give another --out," + (
        " or delete it"
    )
    code, [[*_, error]] = table(monkeypatch, out, "--rows", "3", "--", "data.path=none")
    assert (code, error) == (1, "data.path=none: there is no such file")


def test_what_is_said_of_a_folder_in_use_is_what_is_looked_for(tmp_path: Path) -> None:
    config = {"task": {"name": "classification"}}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match=ablation.OTHER_RUN):
        reuse.check_free(config, tmp_path)
    (tmp_path / reuse.RECORD).parent.mkdir()
    (tmp_path / reuse.RECORD).write_text(json.dumps({"config": config}))
    with pytest.raises(UserError, match=ablation.SAME_RUN):
        reuse.check_free(config, tmp_path)


def test_ctrl_c_ends_in_the_table_of_the_rows_until_then(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run

    def interrupted(*args: object, **kwargs: object) -> object:
        done = run(*args, **kwargs)  # type: ignore[call-overload]
        signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(subprocess, "run", interrupted)
    code, rows = table(monkeypatch, out, "--rows", "1", "2", "3")
    assert (code, [row[0] for row in rows]) == (130, ["1"])


MISTAKES = {
    "row": (["--rows", "9"], "there is no row 9; there are 1, 2, 3"),
    "no --": (["--rows", "1", "data.path=x"], "-- stands between rows and overrides"),
    "flag": (["-m"], "unrecognized arguments: -m"),
    "word": (["model"], "model is no override: give key=value"),
    "own": (["hydra.run.dir=x"], "leave it out, each row has its own hydra.run.dir"),
    "out": (["--out", __file__], "give another folder"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line_before_anything_is_trained(
    case: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, said = MISTAKES[case]
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--out", str(out), *command])
    with pytest.raises(SystemExit) as end:
        ablation.main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error
    assert not out.exists()


def test_a_row_that_is_worse_than_chance_has_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(ablation, "save_figure", lambda figure, _: drawn.append(figure))
    for accuracy in (0.93, 0.43):
        found = {"metrics": {"test/accuracy": accuracy}}
        ablation._plot(tmp_path / "x.png", [(ablation.ROWS[0], found), (ablation.ROWS[1], {})])
    assert [figure.axes[0].get_xlim() for figure in drawn] == [(50, 100), (40, 100)]
