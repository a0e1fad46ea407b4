"""evaluate.py with a classifier and a table of labelled texts."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gptlit import Classifier
from gptlit.cli.labelled import evaluate_labelled
from gptlit.errors import UserError
from tests.inference.classifiers import make_task

TEXTS = ["free entry", "see you", "call now " * 9, "ok"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_task(), "cpu", "fp32")


def write(path: Path, labels: list[str], texts: list[str] = TEXTS) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["kind", "text"], *zip(labels, texts, strict=True)])


def config(table: Path, output: str | None = None) -> dict[str, Any]:
    data = {"path": str(table), "text_column": "text", "label_column": "kind"}
    return {"data": data, "output": output, "batch_size": 2}


def test_predictions_are_compared_with_the_labels(
    tmp_path: Path, classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    said = classifier.predict(TEXTS)
    other = {"ham": "spam", "spam": "ham"}
    labels = [other[said[0].label], *(one.label for one in said[1:])]
    write(tmp_path / "a.csv", labels)
    result = tmp_path / "result.json"
    evaluate_labelled(config(tmp_path / "a.csv", str(result)), tmp_path / "x.ckpt", classifier)
    measured = json.loads(result.read_text())
    assert measured["accuracy"] == 0.75 and measured["texts"] == 4
    losses = [-math.log(p.probabilities[label]) for p, label in zip(said, labels, strict=True)]
    assert measured["loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert "recall/ham" in measured
    with (tmp_path / "result-predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["text"] for row in rows) == sorted(TEXTS)
    assert [row["text"] for row in rows if row["label"] != row["predicted"]] == TEXTS[:1]
    shown = capsys.readouterr().out
    assert f"4 of {tmp_path / 'a.csv'}; 1 were cut to 40 tokens\n" in shown
    assert "accuracy:  0.75\n" in shown and "recall/ham" not in shown


def test_without_an_output_it_only_prints(
    tmp_path: Path, classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.csv", ["ham", "spam"], ["ok", "see you"])
    evaluate_labelled(config(tmp_path / "a.csv"), tmp_path / "x.ckpt", classifier)
    shown = capsys.readouterr().out
    assert f"2 of {tmp_path / 'a.csv'}\n" in shown and "results" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_label_that_was_never_trained_on_is_told(tmp_path: Path, classifier: Classifier) -> None:
    write(tmp_path / "a.csv", ["ham", "spam", "other", "ham"])
    line = r"a\.csv:4: .* on the label 'other'; it knows ham, spam: mend the row, or set"
    with pytest.raises(UserError, match=line):
        evaluate_labelled(config(tmp_path / "a.csv"), tmp_path / "x.ckpt", classifier)


@pytest.mark.parametrize("output", ["a.csv", "x.json"])
def test_what_is_read_is_not_overwritten(
    tmp_path: Path, classifier: Classifier, output: str
) -> None:
    name = {"a.csv": "a.csv", "x.json": "x-predictions.csv"}[output]
    write(tmp_path / name, ["ham", "spam", "ham", "ham"])
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match="is a file that is read"):
        evaluate_labelled(
            config(tmp_path / name, str(tmp_path / output)), tmp_path / "x.ckpt", classifier
        )
    assert (tmp_path / name).read_bytes() == before
