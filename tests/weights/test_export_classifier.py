"""An exported classifier gives transformers' users our class scores; and ours takes it back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    pipeline,
)

import gptlit
from gptlit import Classifier
from gptlit.cli.export import export
from gptlit.errors import UserError
from gptlit.model import GPTModel
from gptlit.options import read_option
from gptlit.tasks.classification import ClassificationTask
from gptlit.weights.load import inspect, load_weights
from tests.inference.classifiers import SHAPE, make_task, save

torch.set_num_threads(1)

LABELS = ["ham", "spam", "\N{SNOWMAN}"]
GPT2 = {"vocab_size": 50257}
TEXTS = [
    "free entry, call now",
    "a",
    "say <|endoftext|> twice",
    "<|endoftext|>",
    "ends with <|endoftext|>",
    "  two  spaces\n\nna\u00efve \N{GRINNING FACE}",
    "a \0 b",
    "far too long " * 99,
]
KINDS: dict[str, dict[str, Any]] = {
    "block": {},
    "lora": {"trainable": "lora"},
    "own head, no bias": {"model": GPT2 | {"tied_head": False, "qkv_bias": False}},
}


def exported(task: ClassificationTask, folder: Path, **changes: str) -> Path:
    ckpt = save(task, folder / "run" / "checkpoints" / "best.ckpt")
    config: dict[str, Any] = {
        "ckpt": str(ckpt),
        "task": {"name": "pretrain"},
        "output_root": "outputs",
        "weights": read_option("weights", "huggingface"),
        "format": "huggingface",
        "out": str(folder / "out"),
    }
    export(config | changes, folder)
    return folder / "out"


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ClassificationTask, Path]:
    """A task, and what it was exported to."""
    given = {"model": GPT2, "tokenizer": "gpt2", "labels": LABELS, **KINDS[request.param]}
    folder = exported(make_task(**given), tmp_path_factory.mktemp("exported"))
    return make_task(**given), folder


def our_scores(task: ClassificationTask, texts: list[str]) -> torch.Tensor:
    """One by one, without padding."""
    tokenizer, context = gptlit.get_tokenizer("gpt2"), SHAPE["context_length"]
    rows = [torch.tensor([tokenizer.encode(text)[:context]]) for text in texts]
    with torch.no_grad():
        logits = [task.classifier.logits(row, torch.tensor([row.shape[1]])) for row in rows]
    return torch.cat(logits)


def test_transformers_gives_our_scores_in_padded_batches(
    pair: tuple[ClassificationTask, Path],
) -> None:
    task, folder = pair
    model, report = GPT2ForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(AutoModelForSequenceClassification.from_pretrained(folder)) is type(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = our_scores(task, TEXTS)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert bool((batch["input_ids"][1] == tokenizer.pad_token_id).any())
    with torch.no_grad():
        together = model.eval()(**batch).logits
        torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
        for text, scores in zip(TEXTS, expected, strict=True):
            alone = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0]
            torch.testing.assert_close(alone, scores, atol=1e-5, rtol=0)


def test_an_end_of_text_inside_ends_nothing(pair: tuple[ClassificationTask, Path]) -> None:
    task, folder = pair
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 50256, 7, 50256, 50256], [1, 2, 50256, 50256, 9]])
    lengths = torch.tensor([3, 5])
    with torch.no_grad():
        theirs = model(ids, attention_mask=torch.arange(5) < lengths[:, None]).logits
        torch.testing.assert_close(theirs, task.classifier.logits(ids, lengths), atol=1e-5, rtol=0)


def test_the_pipeline_names_our_classes(pair: tuple[ClassificationTask, Path]) -> None:
    task, folder = pair
    classify = pipeline("text-classification", model=str(folder), truncation=True)
    probabilities = our_scores(task, TEXTS).softmax(dim=1)
    for batch_size in (1, 3):
        found = classify(TEXTS, batch_size=batch_size)
        for one, expected in zip(found, probabilities, strict=True):
            assert one["label"] == LABELS[int(expected.argmax())]
            assert one["score"] == pytest.approx(float(expected.max()), abs=1e-5)


def test_the_folder_says_what_it_is(pair: tuple[ClassificationTask, Path]) -> None:
    _, folder = pair
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "ham", "1": "spam", "2": "\N{SNOWMAN}"}
    assert config["label2id"] == {"ham": 0, "spam": 1, "\N{SNOWMAN}": 2}
    assert config["pad_token_id"] == config["eos_token_id"] == 50256
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "| classes | ham, spam, \N{SNOWMAN} |" in card
    assert 'pipeline("text-classification"' in card


def test_we_take_it_back(pair: tuple[ClassificationTask, Path], tmp_path: Path) -> None:
    task, folder = pair
    back = gptlit.load(folder, device="cpu")
    assert isinstance(back, Classifier) and back.labels == LABELS
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    for loaded in (back, gptlit.load(tmp_path / "theirs", device="cpu")):
        found = torch.tensor([list(p.probabilities.values()) for p in loaded.predict(TEXTS)])
        expected = our_scores(task, TEXTS).softmax(dim=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    again = exported(back.trained, tmp_path)
    first, second = (load_file(path / "model.safetensors") for path in (folder, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_classes_without_names_are_called_as_transformers_calls_them(tmp_path: Path) -> None:
    shape = {"n_positions": 16, "n_embd": 32, "n_head": 2, "n_layer": 1}
    theirs = GPT2ForSequenceClassification(GPT2Config(**shape, pad_token_id=50256)).eval()
    theirs.save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    ours = gptlit.load(tmp_path, device="cpu", precision="fp32")
    assert isinstance(ours, Classifier)
    with torch.no_grad():
        expected = theirs(torch.tensor([ours.tokenizer.encode("hi there")])).logits[0].softmax(0)
    found = ours.predict("hi there").probabilities
    assert list(found) == ["LABEL_0", "LABEL_1"]
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "given", [{"problem_type": "multi_label_classification"}, {"id2label": {"0": "score"}}], ids=str
)
def test_a_classifier_that_does_not_choose_one_of_several_is_refused(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    folder = exported(make_task(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | given))
    # Without our header, as transformers writes it.
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(UserError, match=r"config.json describes a model of . labels for .*_cla"):
        gptlit.load(folder)


def test_a_head_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = exported(make_task(), tmp_path)
    task = make_task(labels=["a", "b", "c"])
    (tmp_path / "other").mkdir()
    other = exported(task, tmp_path / "other")
    with safe_open(str(other / "model.safetensors"), framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata)
    with pytest.raises(UserError, match=r"has 3 labels, but its score.weight is of shape"):
        gptlit.load(folder)


REFUSED = {
    "pool": ({"pool": "mean"}, {}, r"task.pool=mean task.causal=true.*use python classify.py"),
    "causal": ({"causal": False}, {}, r"task.pool=last task.causal=false.*use python classify"),
    "format": ({}, {"format": "safetensors"}, r"best.ckpt is a classifier: use format=huggingf"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_cannot_compute_is_not_exported(tmp_path: Path, case: str) -> None:
    settings, changes, pattern = REFUSED[case]
    with pytest.raises(UserError, match=pattern):
        exported(make_task(**settings), tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_run_is_exported_and_used_by_the_commands(tmp_path: Path) -> None:
    run_folder = tmp_path / "outputs" / "classification" / "latest"
    save(make_task(trainable="lora"), run_folder / "checkpoints" / "best.ckpt")
    summary = {"task": "classification", "metrics": {"test/accuracy": 0.9375}}
    (run_folder / "summary.json").write_text(json.dumps(summary))
    done = run("scripts/export", "task=classification", "out=mine", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GPT2ForSequenceClassification.from_pretrained('mine')" in done.stdout
    classify = pipeline("text-classification", model=str(tmp_path / "mine"))
    expected = Classifier(make_task(trainable="lora"), "cpu").predict("hi")
    assert classify("hi")[0]["score"] == pytest.approx(expected.probability, abs=1e-5)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "| test/accuracy | 0.9375 |" in card
    said = run("classify", "ckpt=mine", "text=hi", "device=cpu", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{expected}\n"


@pytest.mark.parametrize("trainable", ["last_block", "lora", "head"])
def test_another_task_starts_from_a_classifiers_body(tmp_path: Path, trainable: str) -> None:
    task = make_task(trainable=trainable)
    path = save(task, tmp_path / "best.ckpt")
    model = GPTModel(task.model.cfg).eval()
    load_weights(model, path)
    ids = torch.randint(257, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), task.model(ids), atol=1e-5, rtol=1e-5)
    found = inspect(path)
    assert (found.config, found.tokenizer, found.labels) == (
        task.model.cfg,
        "byte",
        ("ham", "spam"),
    )


def test_lora_that_nothing_is_known_of_is_refused(tmp_path: Path) -> None:
    task = make_task(trainable="lora")
    torch.save(task.state_dict(), tmp_path / "bare.pt")
    content = {"hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}
    lora = {**task.hparams["settings"]["lora"], "rank": 3}
    content["hyper_parameters"]["settings"] = {**task.hparams["settings"], "lora": lora}
    torch.save(content, tmp_path / "rank.ckpt")
    bare = (
        r"bare.pt has LoRA weights, but does not say how .* after gptlit.model.merge_lora\(model\)"
    )
    for name, line in (
        ("bare.pt", bare),
        ("rank.ckpt", "rank.ckpt has LoRA weights that do not fit"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            load_weights(GPTModel(task.model.cfg), tmp_path / name)
        assert "\n" not in str(caught.value)
