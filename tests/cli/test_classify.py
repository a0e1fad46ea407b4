"""What classify.py prints and writes, in this process."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlit import Classifier
from gptlit.cli.classify import classify
from gptlit.data.tables import read_table
from gptlit.errors import UserError
from tests.inference.classifiers import make_task, save

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_task(), "cpu", "fp32")


def answer(folder: Path, **changes: Any) -> None:
    """Classify with the newest run in a folder."""
    best = folder / "classification" / "latest" / "checkpoints" / "best.ckpt"
    if not best.exists():
        save(make_task(), best)
    config: dict[str, Any] = {
        "device": {"name": "cpu"},
        "precision": {"name": "fp32"},
        "weights": {"path": None},
        "ckpt": None,
        "output_root": str(folder),
        "text": None,
        "input": None,
        "output": None,
        "column": "text",
        "probabilities": False,
        "batch_size": 2,
    }
    classify(config | changes, folder)


@pytest.mark.parametrize("text", ["", "null", " ", "\0"])
def test_every_text_has_an_answer(
    tmp_path: Path, classifier: Classifier, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    answer(tmp_path, text=text)
    assert capsys.readouterr().out == f"{classifier.predict(text)}\n"


def test_lines_of_text_become_rows(
    tmp_path: Path, classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    answer(tmp_path, input=str(tmp_path / "lines.txt"), output=str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = classifier.predict(["one", "", "two"])
    for row, text, prediction in zip(rows, ["one", "", "two"], expected, strict=True):
        assert (row["text"], row["label"]) == (text, prediction.label)
        assert row["probability"] == pytest.approx(prediction.probability, abs=1e-5)
    said = f"3 texts classified into {tmp_path / 'out.jsonl'}, columns label and probability\n"
    assert capsys.readouterr().out == said


def test_columns_of_the_table_are_kept(tmp_path: Path) -> None:
    table, out = tmp_path / "given.csv", tmp_path / "out.csv"
    table.write_text("label,predicted_label,text\nx,y,hi\n")
    for _ in range(2):  # an answer of before may be replaced
        answer(tmp_path, input=str(table), output=str(out))
    with out.open(newline="") as file:
        header, row = csv.reader(file)
    new = ["predicted_predicted_label", "probability"]
    assert header == ["label", "predicted_label", "text", *new]
    assert row[:3] == ["x", "y", "hi"] and row[3] in ("ham", "spam")


def test_a_link_stays_one_and_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text("text\nhi\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    given = {"input": str(tmp_path / "given.csv"), "output": str(tmp_path / "link.csv")}
    answer(tmp_path, **given)
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").is_file()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match=r"pipe\.csv is a device or a pipe"):
        answer(tmp_path, **given | {"output": str(tmp_path / "pipe.csv")})


def test_what_cannot_be_written_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text("text\nhi\n")
    for output in ("given.csv", "out.xlsx", "no/out.csv"):
        paths = {"input": str(tmp_path / "given.csv"), "output": str(tmp_path / output)}
        with pytest.raises(UserError, match=r"^output=.*"):
            classify({**paths, "column": "text"}, tmp_path)


@pytest.mark.parametrize("label", ["s\tpam", "s\npam", "s\rpam"])
def test_labels_that_a_tsv_file_cannot_hold_are_said_before_the_work(
    tmp_path: Path, label: str
) -> None:
    best = tmp_path / "classification" / "latest" / "checkpoints" / "best.ckpt"
    save(make_task(labels=[label, f"{label}!"]), best)
    table, out = tmp_path / "given.csv", tmp_path / "out.tsv"
    table.write_text("text\nhi\n")
    told = r"^the classifier's label 's\\.pam' has a tab or a line end in it, .*format as output=…$"
    with pytest.raises(UserError, match=told):
        answer(tmp_path, input=str(table), output=str(out))
    assert not out.exists()
    answer(tmp_path, input=str(table), output=str(tmp_path / "out.csv"))
    [row] = read_table(str(tmp_path / "out.csv"), "input", "text").rows
    assert row["label"] in (label, f"{label}!")
