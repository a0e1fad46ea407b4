"""The perplexity of a text, by the command that users type."""

import json
import math
from pathlib import Path

import pytest
from commands import TINY, run, write_corpus
from test_errors import check


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_corpus(folder / "corpus.txt")
    (folder / "Held Out").mkdir()
    write_corpus(folder / "Held Out" / "Text, new.txt", 60)
    (folder / "empty.txt").write_text("")
    done = run(
        "train",
        *TINY,
        "precision=fp32",
        "data=text",
        "data.path=corpus.txt",
        "data.val_path=Held Out",
        "trainer.max_steps=2",
        "trainer.val_interval=2",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_the_validation_loss_without_overlap_and_less_with(trained: Path) -> None:
    before = {path.relative_to(trained) for path in trained.rglob("*")}
    results = []
    for stride in ("32", "null"):
        args = ("data=Held Out/Text, new.txt", f"stride={stride}", "output=result.json")
        done = run("evaluate", *args, "device=cpu", cwd=trained)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((trained / "result.json").read_text()))
        rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
        assert f"{results[-1]['loss']:.4f} nats per token" in rows["loss"]
        assert f"{results[-1]['perplexity']:,.2f}" in rows["perplexity"]
    plain, overlapping = results
    latest = trained / "outputs" / "pretrain" / "latest"
    metrics = json.loads((latest / "summary.json").read_text())["metrics"]
    assert plain["loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)
    assert plain["perplexity"] == pytest.approx(metrics["val/perplexity"], rel=1e-4)
    assert plain["bits_per_byte"] == pytest.approx(metrics["val/bits_per_byte"], rel=1e-5)
    assert overlapping["loss"] == pytest.approx(plain["loss"], rel=0.05)
    n_bytes = (trained / "Held Out" / "Text, new.txt").stat().st_size
    for result in results:
        assert (result["tokens"], result["bytes"]) == (n_bytes, n_bytes - 1)
        assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
        assert (result["context_length"], result["device"]) == (32, "cpu")
        assert result["ckpt"] == str(latest.resolve() / "checkpoints" / "best.ckpt")
    assert (plain["stride"], overlapping["stride"]) == (32, 16)
    assert {path.relative_to(trained) for path in trained.rglob("*")} - before == {
        Path("result.json")
    }


def test_several_files_and_bf16(trained: Path) -> None:
    ckpt = "ckpt=outputs/pretrain/latest"
    args = ("data=[corpus.txt,Held Out]", "precision=bf16", "stride=32", "output=both.json")
    done = run("evaluate", ckpt, *args, "device=cpu", cwd=trained)
    assert done.returncode == 0, done.stderr
    result = json.loads((trained / "both.json").read_text())
    sizes = [(trained / path).stat().st_size for path in ("corpus.txt", "Held Out/Text, new.txt")]
    assert result["bytes"] == sum(sizes) - 1
    assert result["precision"] == "bf16"
    assert 3 < result["loss"] < 7


MISTAKES = {
    "no text": ([], r"data is not set: give data=TEXT"),
    "missing file": (["data=nowhere.txt"], r"data.path=nowhere.txt: there is no such file"),
    "empty text": (["data=empty.txt"], r"empty.txt holds no text"),
    "stride of nothing": (["data=corpus.txt", "stride=0"], r"stride=0: must be >= 1"),
    "stride too long": (["data=corpus.txt", "stride=33"], r"stride=33: must be from 1 to 32"),
    "no such run": (
        ["data=corpus.txt", "task=other"],
        r"unknown task=other: .* known are classification, instruction, pretrain",
    ),
    "nowhere to write": (
        ["data=corpus.txt", "output=no/x.json"],
        r"output=no/x.json: give a file in a folder",
    ),
    "unknown key": (["data=corpus.txt", "strid=3"], r"did you mean 'stride'"),
}


def test_each_mistake_is_answered_in_one_line(trained: Path) -> None:
    check("evaluate", MISTAKES, trained)
