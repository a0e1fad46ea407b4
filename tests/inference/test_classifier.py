"""What `gptlit.load(...)` makes of a classification, and what it says about texts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlit
from gptlit import Classifier, LanguageModel, Prediction
from gptlit.errors import UserError
from gptlit.inference.classifier import _to_fp32
from gptlit.inference.packed import pack_linears
from gptlit.inference.placement import convert
from gptlit.model import LoRAConfig, LoRALinear, add_lora
from gptlit.model.config import GPTConfig
from gptlit.model.gpt import GPTModel
from gptlit.tasks.classification import ClassificationTask
from gptlit.tasks.pretrain import PretrainTask
from gptlit.tokenizer import get_tokenizer
from tests.inference.classifiers import SHAPE, make_task, save

torch.set_num_threads(1)

TEXTS = [
    "free entry, call now",
    "",
    "hi",
    " " * 9,
    "a \0 b",
    "bye <|endoftext|>",
    "\N{GRINNING FACE} \N{CJK UNIFIED IDEOGRAPH-4E2D}\N{CJK UNIFIED IDEOGRAPH-6587}\ud83d",
    "word " * 10_000,
]
CHOICES = [
    {"pool": pool, "causal": causal, "trainable": trainable}
    for pool, causal in [("last", True), ("first", False), ("mean", True), ("mean", False)]
    for trainable in ("last_block", "lora")
]


@pytest.fixture(scope="module")
def task() -> ClassificationTask:
    return make_task(labels=["eggs", "ham", "spam"])


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_task(labels=["eggs", "ham", "spam"]), "cpu", "fp32")


def test_a_text_gives_a_prediction_and_texts_a_list(classifier: Classifier) -> None:
    one, several = classifier.predict("hi"), classifier.predict(["x", "hi"])
    assert isinstance(one, Prediction) and isinstance(several, list)
    assert several[1].label == one.label and len(several) == 2
    assert classifier.predict([]) == []
    assert list(one.probabilities) == classifier.labels == ["eggs", "ham", "spam"]
    assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(map(str, choice.values())))
def test_it_says_what_the_task_computes(choice: dict[str, Any]) -> None:
    task = make_task(**choice)
    found = Classifier(make_task(**choice), "cpu", "fp32").predict(TEXTS, batch_size=3)
    for text, prediction in zip(TEXTS, found, strict=True):
        ids = get_tokenizer("byte").encode(text)[: SHAPE["context_length"]] or [256]
        with torch.no_grad():
            logits = task.classifier.logits(torch.tensor([ids]), torch.tensor([len(ids)]))
        expected = logits.softmax(dim=1)
        got = torch.tensor([list(prediction.probabilities.values())])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def same(a: Prediction, b: Prediction, atol: float) -> bool:
    pairs = zip(a.probabilities.values(), b.probabilities.values(), strict=True)
    return a.cut == b.cut and all(abs(x - y) <= atol for x, y in pairs)


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(max_size=60) | st.sampled_from(TEXTS), min_size=1, max_size=9),
    batch_size=st.integers(1, 10),
)
def test_alone_and_in_any_batch_a_text_is_the_same(
    classifier: Classifier, texts: list[str], batch_size: int
) -> None:
    together = classifier.predict(texts, batch_size)
    for text, prediction in zip(texts, together, strict=True):
        assert same(classifier.predict(text), prediction, atol=1e-5)


def test_what_the_context_cuts_off_is_not_looked_at_and_said(classifier: Classifier) -> None:
    context = SHAPE["context_length"]
    short, full, long = classifier.predict(["a" * (context - 1), "a" * context, "a" * 999])
    assert (short.cut, full.cut, long.cut) == (False, False, True)
    assert same(full, Prediction(long.label, long.probability, long.probabilities, False), 1e-6)


def test_batches_hold_texts_of_about_one_length(
    task: ClassificationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, shapes = Classifier(task, "cpu", "fp32"), []
    logits = task.classifier.logits

    def watched(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return logits(ids, lengths)

    monkeypatch.setattr(task.classifier, "logits", watched)
    classifier.predict(["a", "b" * 30, "c", "d" * 30, "e"], batch_size=2)
    assert shapes == [(2, 30), (2, 1), (1, 1)]


def test_a_prediction_reads_as_a_line() -> None:
    names = [f"class{i}" for i in range(7)]
    many = Prediction("class6", 0.4, dict(zip(names, [0.1] * 6 + [0.4], strict=True)), False)
    assert str(Prediction("b", 0.75, {"a": 0.25, "b": 0.75}, False)) == "b 0.7500, a 0.2500"
    odd = {"two\nlines": 0.75, "\x1b[2J": 0.25}
    assert str(Prediction("two\nlines", 0.75, odd, False)) == "two lines 0.7500, ␛[2J 0.2500"
    assert str(many).startswith("class6 0.4000, class0 0.1000, ") and str(many).endswith(", 2 more")


@pytest.mark.parametrize("wrong", [None, 5, ["a", None], [b"a"]])
def test_what_is_no_text_is_refused(classifier: Classifier, wrong: Any) -> None:
    with pytest.raises(TypeError):
        classifier.predict(wrong)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        classifier.predict("a", batch_size=0)


@pytest.mark.parametrize("trainable", ["last_block", "lora"])
def test_a_checkpoint_is_a_classifier_or_a_language_model_by_its_task(
    tmp_path: Path, trainable: str
) -> None:
    task = make_task(trainable=trainable)
    run = tmp_path / "classification" / "latest"
    save(task, run / "checkpoints" / "best.ckpt")
    save(PretrainTask(model=SHAPE, tokenizer="byte"), tmp_path / "other.ckpt")
    by_path = gptlit.load(run, device="cpu")
    newest = gptlit.load(task="classification", outputs=tmp_path, device="cpu")
    assert isinstance(by_path, Classifier) and isinstance(newest, Classifier)
    assert not any(isinstance(module, LoRALinear) for module in by_path.model.modules())
    expected = Classifier(task, "cpu").predict(TEXTS)
    for loaded in (by_path, newest):
        assert all(map(same, loaded.predict(TEXTS), expected, [1e-6] * len(TEXTS)))
    assert isinstance(gptlit.load(tmp_path / "other.ckpt", device="cpu"), LanguageModel)


def test_neither_takes_the_model_of_the_other() -> None:
    writes = PretrainTask(model=SHAPE, tokenizer="byte")
    with pytest.raises(ValueError, match="a model of task=pretrain is no classifier: use Language"):
        Classifier(writes, "cpu", "fp32")
    with pytest.raises(ValueError, match="is a classifier, which writes no text: use Classifier"):
        LanguageModel(make_task(), "cpu", "fp32")


def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path) -> None:
    task = make_task()
    hparams = dict(task.hparams)
    del hparams["settings"]["labels"]
    content = {"hyper_parameters": hparams, "state_dict": task.state_dict()}
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(UserError, match=r"damaged\.ckpt does not fit the model it describes"):
        gptlit.load(tmp_path / "damaged.ckpt")


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(map(str, choice.values())))
def test_16_bits_say_nearly_the_same(choice: dict[str, Any], packed_precision: str) -> None:
    exact, rounded = (Classifier(make_task(**choice), "cpu", p) for p in ("fp32", packed_precision))
    assert rounded.precision == packed_precision
    expected, found = exact.predict(TEXTS), rounded.predict(TEXTS, batch_size=2)
    assert all(map(same, found, expected, [0.05] * len(TEXTS)))
    assert all(map(same, found, map(rounded.predict, TEXTS), [0.02] * len(TEXTS)))


def test_a_mean_whose_sum_fp16_cannot_hold_is_a_number() -> None:
    task = make_task(pool="mean", model={"context_length": 1024})
    with torch.no_grad():
        task.model.final_norm.bias[0] = 80
    ids, lengths = torch.arange(1024)[None] % 257, torch.tensor([1024])
    expected = task.classifier.logits(ids, lengths)
    convert(task.model, "cpu", torch.float16)
    task.head.register_forward_pre_hook(_to_fp32)
    torch.testing.assert_close(task.classifier.logits(ids, lengths), expected, atol=0.05, rtol=0)


def test_packing_a_model_keeps_what_lora_changed(packed_precision: str) -> None:
    torch.manual_seed(0)
    model = add_lora(GPTModel(GPTConfig(**SHAPE)), LoRAConfig(rank=2)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.5)
        ids = torch.arange(20)[None]
        expected = model(ids)
        got = pack_linears(model, packed_precision)(ids)
    assert (got - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(map(str, choice.values())))
def test_a_gpu_says_nearly_the_same(choice: dict[str, Any], precision: str) -> None:
    expected = Classifier(make_task(**choice), "cpu", "fp32").predict(TEXTS)
    found = Classifier(make_task(**choice), "cuda", precision).predict(TEXTS, batch_size=2)
    atol = 1e-3 if precision == "fp32" else 0.05
    assert all(map(same, found, expected, [atol] * len(TEXTS)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_callers_default_type_and_device_change_nothing(
    classifier: Classifier, dtype: torch.dtype
) -> None:
    expected = classifier.predict(["hi", "hello"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = classifier.predict(["hi", "hello"])
    finally:
        torch.set_default_dtype(before)
    assert found == expected
