"""scripts/compare.py puts finished runs side by side."""

import csv
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import compare as script
import pytest
import yaml
from commands import run
from matplotlib.figure import Figure
from PIL import Image

from gptlit.training import reuse
from gptlit.training.monitored import LOSS

CONFIG: dict[str, Any] = {
    "model": {"name": "gpt2-nano", "emb_dim": 128, "n_layers": 4},
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]},
    "logger": {"csv": True},
    "output_root": "outputs",
    "seed": 1,
}


def make(
    folder: Path,
    loss: float,
    *overrides: str,
    metrics: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A run that has finished: its config, curve and summary."""
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config.yaml").write_text(
        yaml.safe_dump({**CONFIG, **changes}, sort_keys=False)
    )
    (folder / "config" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    facts = {"metrics": {"val/loss": loss, **(metrics or {})}, "tokens_per_second": 1234.5}
    (folder / "summary.json").write_text(json.dumps(facts))
    rows = [f"{step},9,{loss + 1 / step if step % 2 else ''}" for step in (1, 2, 3)]
    (folder / "metrics.csv").write_text("\n".join(["step,train/loss,val/loss", *rows, ""]))
    return folder


def compare(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return run("scripts/compare", *map(str, args), cwd=folder, DRAW="1")


def table(folder: Path, *args: object) -> list[dict[str, str]]:
    """The rows of the CSV."""
    done = compare(folder, *args, "--out", "table.csv")
    assert done.returncode == 0, done.stderr
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_differs_stands_beside_what_came_out(tmp_path: Path) -> None:
    optimizer = {**CONFIG["optimizer"], "lr": 1e-2}
    make(tmp_path / "runs" / "a", 2.5, output_root="elsewhere")
    make(tmp_path / "runs" / "b", 1.5, optimizer=optimizer, metrics={"test/accuracy": 0.75})
    done = compare(tmp_path, "runs")
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
    assert [line[1:-1] for line in lines if len(line) == 5] == [
        ["optimizer.lr", "0.01", "0.001"],
        ["val/loss", "1.5000", "2.5000"],
        ["test/accuracy", "0.7500", "-"],
        ["tokens per second", "1,234", "1,234"],
    ]
    assert done.stdout.index("b") < done.stdout.index("a")


def test_many_runs_stand_below_each_other(tmp_path: Path) -> None:
    for seed in range(8):
        make(tmp_path / "sweep" / str(seed), 3.0 - seed / 10, seed=seed)
    done = compare(tmp_path, "sweep")
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == list("76543210")


def test_the_best_run_is_that_of_the_best_checkpoint(tmp_path: Path) -> None:
    for name, last, best in (("overfitted", 3.0, 1.0), ("steady", 2.0, 2.0)):
        folder = make(tmp_path / "runs" / name, last)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.ckpt").touch()
        reuse.begin({"resume": None, **CONFIG}, folder)
        reuse.finish(folder, best)
    rows = table(tmp_path, "runs")
    assert [Path(row["run"]).name for row in rows] == ["overfitted", "steady"]
    assert [(row["best val/loss"], row["val/loss"]) for row in rows] == [
        ("1.0", "3.0"),
        ("2.0", "2.0"),
    ]


def test_scores_of_another_metric_stand_apart(tmp_path: Path) -> None:
    for name, last, score, metric in (("a", 2.0, 0.5, "val/f1"), ("b", 3.0, 1.0, "val/loss")):
        trainer = {"monitor": metric}
        folder = make(tmp_path / "runs" / name, last, trainer=trainer)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.ckpt").touch()
        reuse.begin({"resume": None, **CONFIG, "trainer": trainer}, folder)
        reuse.finish(folder, score)
    rows = table(tmp_path, "runs")
    assert [Path(row["run"]).name for row in rows] == ["b", "a"]
    assert [(row["best val/loss"], row["best val/f1"]) for row in rows] == [
        ("1.0", ""),
        ("", "0.5"),
    ]


def test_of_another_option_the_name_says_it_all_but_for_what_was_typed(tmp_path: Path) -> None:
    small = {"name": "gpt2-small", "emb_dim": 768, "n_layers": 6}
    make(tmp_path / "a", 2.0)
    make(tmp_path / "b", 1.0, "model=gpt2-small", "model.n_layers=6", model=small)
    columns = ["run", "model.name", "model.n_layers", "val/loss", "tokens per second"]
    rows = table(tmp_path, "a", "b")
    assert list(rows[0]) == columns
    assert [row["model.n_layers"] for row in rows] == ["6", "4"]


def test_folders_are_searched_and_each_run_counts_once(tmp_path: Path) -> None:
    first = make(tmp_path / "outputs" / "pretrain" / "1", 2.0)
    make(tmp_path / "outputs" / "pretrain" / "sweeps" / "now" / "0", 1.0)
    (tmp_path / "outputs" / "pretrain" / "unfinished").mkdir()
    (tmp_path / "outputs" / "pretrain" / "latest").symlink_to("1")
    again = tmp_path / "outputs" / "pretrain" / "sweeps" / "now" / "1"
    (again / "config").mkdir(parents=True)
    reuse.take(reuse.Finished(first, 2.0), again)
    rows = table(tmp_path, "outputs/pretrain/latest", "outputs", first, again)
    assert [row["val/loss"] for row in rows] == ["1.0", "2.0"]
    assert rows[1]["run"] == str(first)
    assert len(table(tmp_path, "outputs")) == 2  # where one place has a run and what took it


def test_a_run_whose_results_were_deleted_is_left_out(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a", 2.0)
    gone = make(tmp_path / "earlier", 1.0)
    took = tmp_path / "runs" / "b"
    (took / "config").mkdir(parents=True)
    reuse.take(reuse.Finished(gone, 1.0), took)
    assert len(table(tmp_path, "runs")) == 2
    shutil.rmtree(gone)
    assert [row["val/loss"] for row in table(tmp_path, "runs")] == ["2.0"]
    assert "b: no run has finished here" in compare(tmp_path, took).stderr


def test_a_run_counts_though_a_later_sweep_took_another_in_its_place(tmp_path: Path) -> None:
    """Runs are numbered: of a shorter list of values, others."""
    first, second = (make(tmp_path / "sweep" / name, float(name)) for name in ("1", "2"))
    reuse.take(reuse.Finished(second, 2.0), first)
    assert [row["val/loss"] for row in table(tmp_path, "sweep")] == ["1.0", "2.0"]


def test_the_config_is_that_of_the_results(tmp_path: Path) -> None:
    """Not of a later command that was given the same folder, and refused."""
    make(tmp_path / "a", 2.0)
    folder = make(tmp_path / "b", 1.0, seed=2)
    reuse.begin({**CONFIG, "resume": None, "seed": 2}, folder)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": -1}))
    assert [row["seed"] for row in table(tmp_path, "a", "b")] == ["2", "1"]


def test_one_picture_has_all_curves(tmp_path: Path) -> None:
    for name, loss in (("a", 2.0), ("b", float("nan")), ("c", 1.0)):
        make(tmp_path / name, loss, seed=name)
    (tmp_path / "c" / "metrics.csv").unlink()
    done = compare(tmp_path, "a", "b", "c", "--out", "curves.png", "--out", "curves.pdf")
    assert done.returncode == 0, done.stderr
    assert "written: curves.png" in done.stdout and done.stderr == ""
    assert done.stdout.count("no curve of c, b: no val/loss that is a number") == 2
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert min(image.size) > 300
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    names = {"a", "b", "c", "curves.png", "curves.pdf"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_values_in_a_picture_are_no_formulas(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, 1.0, seed=f"${name}_$")
    done = compare(tmp_path, "a", "b", "--out", "x.png")
    assert done.returncode == 0, done.stderr


def test_a_picture_of_many_runs_has_room_for_their_names(tmp_path: Path) -> None:
    sizes = []
    for number in (8, 28, 60):
        for seed in range(number):
            if not (tmp_path / "sweep" / str(seed)).exists():
                make(tmp_path / "sweep" / str(seed), 3.0 - seed / 100, seed=seed)
        assert compare(tmp_path, "sweep", "--out", "x.png").returncode == 0
        with Image.open(tmp_path / "x.png") as image:
            sizes.append(image.size)
    assert sizes == [(1200, 750), (1650, 1050), (1650, 1500)]


def test_what_the_best_run_lacks_makes_a_difference_too(tmp_path: Path) -> None:
    folders = [make(tmp_path / "a", 1.0), make(tmp_path / "b", 2.0, lora={"rank": 2})]
    runs = script.read_runs([*folders, make(tmp_path / "c", 3.0, lora={"rank": 4})])
    labels = script._labels(runs, script.compare(runs))
    assert labels == ["a: lora.rank=-", "b: lora.rank=2", "c: lora.rank=4"]


def test_long_names_stand_beside_the_curves_with_both_ends(tmp_path: Path) -> None:
    names = [f"{first}{60 * '-'}{last}" for first, last in (("a", "x"), ("a", "y"), ("b", "y"))]
    for seed, name in enumerate(names):
        make(tmp_path / name, 1.0, seed=seed)
    done = compare(tmp_path, *names, "--out", "x.svg", "--out", "x.png")
    assert done.returncode == 0 and done.stderr == ""
    labels = re.findall(r"<!-- (.*): seed=\d -->", (tmp_path / "x.svg").read_text())
    assert [(label[0], label[-1]) for label in labels] == [("a", "x"), ("a", "y"), ("b", "y")]
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 1200


def test_numbers_are_shown_as_one_would_type_them(tmp_path: Path) -> None:
    rates = (0.018000000000000002, 0.00073243891, 1e-5)
    for number, rate in enumerate(rates):
        make(tmp_path / str(number), 1.0, optimizer={"lr": rate})
    done = compare(tmp_path, "0", "1", "2")
    for shown in ("0.018", "0.000732439", "1e-05"):
        assert f" {shown} " in done.stdout
    rows = table(tmp_path, "0", "1", "2")
    assert [float(row["optimizer.lr"]) for row in rows] == list(rates)


def test_long_values_are_cut_in_the_table_alone(tmp_path: Path) -> None:
    template = "Below is an instruction.\n\n### Instruction:\n{instruction}"
    for name in ("a", "b"):
        prompt = {"name": "custom", "template": f"{template} {name}"}
        make(tmp_path / name, 1.0, prompt_format=prompt)
    done = compare(tmp_path, "a", "b")
    assert "{instruction}" not in done.stdout
    assert done.stdout.count("...") == 2
    assert table(tmp_path, "a", "b")[0]["prompt_format.template"] == f"{template} a"


MISTAKES = {
    "nothing there": (["nowhere"], "nowhere: no run has finished here"),
    "an unfinished run": (["a", "empty"], "empty: no run has finished here"),
    "no config": (["bare"], "is not a whole run folder"),
    "no curve": (["bare", "a", "--out", "x.png"], "is not a whole run folder"),
    "a format that is none": (["a", "--out", "x.gif"], "give a .csv or .png"),
    "nowhere to write": (["a", "--out", "folder.csv"], "cannot write --out folder.csv: "),
    "a folder that is none": (["a", "--out", "no/x.csv"], "in a folder that exists"),
}


@pytest.mark.parametrize(("args", "line"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_one_line(tmp_path: Path, args: list[str], line: str) -> None:
    make(tmp_path / "a", 1.0)
    for name in ("empty", "bare", "folder.csv"):
        (tmp_path / name).mkdir()
    (tmp_path / "bare" / "summary.json").write_text('{"metrics": {}}')
    done = compare(tmp_path, *args)
    assert done.returncode == 2
    assert line in done.stderr and "Traceback" not in done.stderr


DAMAGED = {
    "no summary": ("summary.json", "[]", "b is not a whole run folder"),
    "no metrics": ("summary.json", '{"metrics": {"val/loss": null}}', "b is not a whole run"),
    "no speed": ("summary.json", '{"metrics": {}, "tokens_per_second": "?"}', "not a whole run"),
    "no yaml": ("config/config.yaml", "a: [", "b is not a whole run folder"),
    "no config": ("config/trained.json", '{"config": 3}', "b is not a whole run folder"),
    "no step": ("metrics.csv", "step,val/loss\nx,1\n", "b/metrics.csv, line 2: the step is 'x'"),
}


@pytest.mark.parametrize(("name", "content", "line"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_run_is_told_in_one_line(
    tmp_path: Path, name: str, content: str, line: str
) -> None:
    make(tmp_path / "a", 1.0)
    (make(tmp_path / "b", 1.0) / name).write_text(content)
    done = compare(tmp_path, "a", "b", "--out", "x.png")
    assert done.returncode == 2 and not (tmp_path / "x.png").exists()
    assert len(done.stderr.splitlines()) == 1 and line in done.stderr


@pytest.mark.parametrize("loss", [1.0, math.nan])
def test_without_a_curve_there_is_no_picture(tmp_path: Path, loss: float) -> None:
    folder = make(tmp_path / "a", loss)
    if loss == 1:
        (folder / "metrics.csv").unlink()
    done = compare(tmp_path, "a", "--out", "x.png")
    assert done.returncode == 2 and "no run has a val/loss that is a number" in done.stderr
    assert not (tmp_path / "x.png").exists()


def falling(start: float, end: float, *, steps: int = 400) -> list[tuple[int, float]]:
    """A curve whose first points are far above the others."""
    return [(s, end + (start - end) * math.exp(-20 * s / steps)) for s in range(0, steps + 1, 10)]


def test_high_losses_at_first_do_not_flatten_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [script.Run(tmp_path, name, {}, None, {}, set(), None, LOSS) for name in "ab"]
    curves = iter([falling(11, 2.0), falling(11, 2.1)])
    drawn: list[Figure] = []
    monkeypatch.setattr(script, "_curve", lambda _: next(curves))
    monkeypatch.setattr(script, "save_figure", lambda figure, _: drawn.append(figure))
    script.draw(tmp_path / "x.png", runs, {})
    [axes] = drawn[0].axes
    low, top = axes.get_ylim()
    assert 1.9 < low < 2 and 2.1 < top < 2.4
    assert axes.get_title("left") == "above the picture, at first: up to 11"


@pytest.mark.parametrize(
    "curves",
    [
        pytest.param([[(s, 3 - s / 400) for s in range(0, 400, 10)]], id="an even fall"),
        pytest.param([[(0, 11.0), (2, 3.0), (4, 2.9)]], id="few points"),
        pytest.param([falling(11, 2), [(s, 12.0) for s in range(0, 400, 10)]], id="one stays high"),
        pytest.param([falling(3, 3), []], id="a flat line, and none"),
        pytest.param([[(s, math.nan if s else 3.0) for s in range(9)]], id="NaN but for one"),
    ],
)
def test_other_curves_are_shown_whole(curves: list[list[tuple[int, float]]]) -> None:
    assert script._limits(curves) is None


def test_what_rises_in_the_end_is_shown() -> None:
    rising = [(s, 2 + 9 * math.exp(-s / 10) + s / 100) for s in range(0, 400, 10)]
    limits = script._limits([rising, falling(11, 2, steps=100)])
    assert limits is not None and rising[-1][1] < limits[1] < 6.5
