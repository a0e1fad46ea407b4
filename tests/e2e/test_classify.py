"""Texts classified by the command that users type."""

import csv
from pathlib import Path

import pytest
import torch
from commands import TINY, run, write_corpus
from test_errors import check

from gptlit import Classifier
from gptlit.tasks.pretrain import PretrainTask
from tests.inference.classifiers import SHAPE, make_task, save

HOSTILE = [
    "free entry",
    "",
    "\N{GRINNING FACE}",
    "a <|endoftext|>",
    "   ",
    "word " * 10_000,
    'b\n"c"',
]
BEST = Path("outputs/classification/latest/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and texts."""
    folder = tmp_path_factory.mktemp("classify")
    save(make_task(trainable="lora"), folder / BEST)
    save(PretrainTask(model=SHAPE, tokenizer="byte"), folder / "writer.ckpt")
    with (folder / "my, messages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["label", "my text"], *([i, t] for i, t in enumerate(HOSTILE))])
    (folder / "lines.txt").write_text("one\n")
    (folder / "empty.csv").write_text("text\n")
    return folder


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.set_num_threads(1)
    return Classifier(make_task(trainable="lora"), "cpu")


def test_one_text(folder: Path, classifier: Classifier) -> None:
    text = "it's ${free}, now: [call] null"
    done = run("classify", f"text={text}", "device=cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{classifier.predict(text)}\n"


def test_a_conversation(folder: Path, classifier: Classifier) -> None:
    long = "x" * 99
    done = run(
        "classify", f"ckpt={BEST}", "device=cpu", cwd=folder, stdin=f"hi\n\n{long}\nquit\nno\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    hi, cut = (str(classifier.predict(text)) for text in ("hi", long))
    assert done.stdout == f"> {hi}\n> > {cut} (of the first 40 tokens)\n> "


def test_a_table(folder: Path, classifier: Classifier) -> None:
    args = ("input=my, messages.csv", "column=my text", "output=out.csv", "batch_size=2")
    done = run("classify", *args, "device=cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "7 texts classified into out.csv, columns predicted_label and probability;"
        " 1 were cut to 40 tokens\n"
    )
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, (row, text) in enumerate(zip(rows, HOSTILE, strict=True)):
        expected = classifier.predict(text)
        assert (row["label"], row["my text"]) == (str(i), text)
        assert row["predicted_label"] == expected.label
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-5)


STEPS = (
    *TINY,
    "model.n_heads=4",
    "model.context_length=40",
    "weights=checkpoint",
    "precision=fp32",
    "trainer.max_steps=3",
)
"""A short run of the shape of the checkpoints here."""


def test_from_a_language_model_to_a_classifier_and_back(folder: Path, tmp_path: Path) -> None:
    texts = [(f"{w} {i}", w) for i in range(40) for w in ("win", "hello")]
    with (tmp_path / "words.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *texts])
    args = ("task=classification", "task.trainable=lora", "data=csv", "data.path=words.csv")
    start = f"weights.path={folder / 'writer.ckpt'}"
    trained = run("train", *args, start, *STEPS, "optimizer.lr=1e-2", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    latest = "outputs/classification/latest"
    table = (f"input={latest}/test-predictions.csv", "output=again.csv", "probabilities=true")
    done = run("classify", *table, "precision=fp32", "device=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "again.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        assert row["predicted_label"] == row["predicted"]
        probability = float(row[f"p({row['predicted']})"])
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-4)
        for name in ("p(hello)", "p(win)"):
            assert float(row[f"predicted_{name}"]) == pytest.approx(float(row[name]), abs=1e-4)
    write_corpus(tmp_path / "corpus.txt")
    text = ("task=pretrain", "data=text", "data.path=corpus.txt", f"weights.path={latest}")
    back = run("train", *text, *STEPS, cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert "weights: gptlit layout, outputs/classification/latest" in back.stdout


MISTAKES = {
    "another task": (
        ["ckpt=writer.ckpt", "text=a"],
        r"ckpt=writer.ckpt is no classifier but .*use python generate.py ckpt=writer.ckpt$",
    ),
    "no run": (["output_root=none"], r"no finished classification run in none/.*task=classificati"),
    "missing file": (
        ["input=lines.tx", "output=x.csv"],
        r"input=lines.tx: .*did you mean input=lines.txt",
    ),
    "missing column": (
        ["input=my, messages.csv", "output=x.csv"],
        r"no column 'text'; there are: 'label', 'my text'; set column=",
    ),
    "empty": (["input=empty.csv", "output=x.csv"], r"empty.csv has no rows"),
    "overwritten": (
        ["input=my, messages.csv", "column=my text", "output=./my, messages.csv"],
        r"output=my, messages.csv is the file that is read",
    ),
    "no output": (["input=lines.txt"], r"input=lines.txt needs .*output=FILE.csv"),
    "no input": (["output=x.csv"], r"output=x.csv is for the answers to input=FILE"),
    "two sources": (["text=a", "input=lines.txt"], r"either text=... or input=FILE, not both"),
    "missing checkpoint": (["ckpt=gpt2-small"], r"ckpt=gpt2-small does not exist: give a check"),
    "unknown key": (["txt=a"], r"unknown key 'txt': did you mean 'text'"),
    "wrong type": (["batch_size=0"], r"batch_size=0: must be >= 1"),
    "precision": (["text=a", "precision=fp8", "device=cpu"], r"unknown precision=fp8: allowed are"),
}


def test_each_mistake_is_answered_in_one_line(folder: Path) -> None:
    before = (folder / "my, messages.csv").read_bytes()
    check("classify", MISTAKES, folder)
    assert (folder / "my, messages.csv").read_bytes() == before


def test_a_classifier_does_not_write_text(folder: Path) -> None:
    done = run("generate", f"ckpt={BEST}", "prompt=a", cwd=folder)
    assert done.returncode == 2, done.stderr
    line = f"error: ckpt={BEST} is a classifier, which writes no text: use python classify.py ckpt="
    assert done.stderr == f"{line}{BEST}\n"


def test_labelled_texts_are_measured(folder: Path) -> None:
    with (folder / "labelled.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["my text", "kind"], ["a", "ham"], ["b", "spam"]])
    columns = ("data=labelled.csv", "data.text_column=my text", "data.label_column=kind")
    done = run("evaluate", "task=classification", *columns, "device=cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("texts:     2 of labelled.csv\nloss:")
    done = run("evaluate", f"ckpt={BEST}", "data=labelled.csv", "device=cpu", cwd=folder)
    assert done.returncode == 2 and "labelled.csv: no column 'text'; there are" in done.stderr
    done = run("evaluate", f"ckpt={BEST}", "device=cpu", cwd=folder)
    assert done.returncode == 2
    assert "is a classifier: give data=FILE, a table with a text and a label" in done.stderr
