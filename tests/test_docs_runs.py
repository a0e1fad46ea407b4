"""docs/runs.md names what stands in the files of a run, and nothing else."""

import csv
import json
import re
from pathlib import Path

import pytest
from commands import ROOT, TINY, run

PAGE = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
RUNS = {
    "pretrain": ("trainer.val_interval=2",),
    "classification": ("data=spam-sample", "task.trainable=head"),
    "instruction": ("data=instructions-sample", "task.answers.max_new_tokens=0"),
}
"""By task, what makes its run one without downloads."""


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    for task, more in RUNS.items():
        small = (*TINY, "trainer.max_steps=2", "model.context_length=64")
        done = run("train", f"task={task}", *more, *small, cwd=folder, DRAW="1")
        assert done.returncode == 0, done.stderr
    return folder


def measured(folder: Path, task: str) -> set[str]:
    with (folder / "outputs" / task / "latest" / "metrics.csv").open(newline="") as file:
        return set(next(csv.reader(file)))


def test_every_metric_is_explained_and_there(folder: Path) -> None:
    table = PAGE.partition("## metrics.csv")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    shown = {name for cell in cells for name in names(cell)} - {"test/..."}
    columns = set[str]().union(*(measured(folder, task) for task in RUNS))
    assert shown == {name for name in columns if not name.startswith("test/")}
    tested = {name for name in columns if name.startswith("test/")}
    assert {name.replace("test/", "val/") for name in tested} <= shown


def test_the_summary_has_what_the_page_names(folder: Path) -> None:
    summary = json.loads((folder / "outputs/classification/latest/summary.json").read_text())
    text = PAGE.partition("## summary.json")[2].partition("## ")[0]
    shown = [name for name in names(text) if name.isidentifier()]
    assert set(shown) == set(summary)
    split_metrics = [name for name in names(text) if "/" in name]
    assert split_metrics and set(split_metrics) <= summary["metrics"].keys()


def test_the_other_commands_write_the_columns_that_the_page_names(folder: Path) -> None:
    (folder / "prompts.txt").write_text("one\ntwo\n")
    few = ("prompts=prompts.txt", "num_samples=2", "temperature=1", "max_new_tokens=3")
    assert run("generate", *few, cwd=folder).returncode == 0
    lines = [json.loads(line) for line in (folder / "completions.jsonl").open()]
    assert [line["prompt"] for line in lines] == ["one", "one", "two", "two"]
    assert row_of("generate.py")[:2] == list(lines[0])

    table = folder / "outputs" / "classification" / "latest" / "test-predictions.csv"
    header = table.read_text().partition("\n")[0].split(",")
    assert row_of("test-predictions.csv") == ["label", "predicted", "p(CLASS)", "text"]
    assert [*header[:2], header[-1]] == ["label", "predicted", "text"]
    label, probability, option, of_class, renamed = row_of("classify.py")
    assert run("classify", f"input={table}", "output=out.csv", option, cwd=folder).returncode == 0
    with (folder / "out.csv").open(newline="") as file:
        added = next(csv.reader(file))[len(header) :]
    classes = [name for name in header if name.startswith("p(")]
    assert added == [renamed, probability, *(f"predicted_{name}" for name in classes)]
    assert renamed == f"predicted_{label}" and of_class == "p(CLASS)"

    args = ("data=prompts.txt", "output=result.json")
    assert run("evaluate", *args, cwd=folder).returncode == 0
    result = json.loads((folder / "result.json").read_text())
    assert row_of("evaluate.py data=TEXT") == list(result)[: len(row_of("evaluate.py data=TEXT"))]

    args = ("task=classification", f"data={table}", "output=scores.json")
    assert run("evaluate", *args, cwd=folder).returncode == 0
    scores = json.loads((folder / "scores.json").read_text())
    assert set(row_of("evaluate.py task=classification")) <= scores.keys()


def row_of(what: str) -> list[str]:
    """The names in the last cell of the row that is about it."""
    [row] = re.findall(rf"^\|.*`{re.escape(what)}.*\|$", PAGE, re.MULTILINE)
    return names(row.rpartition(" | ")[2])
