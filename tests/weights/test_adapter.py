"""Checkpoints that hold a LoRA adapter alone find the weights that it changes, and no others."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gptlit
from gptlit import Classifier, LanguageModel
from gptlit.errors import UserError
from gptlit.inference.checkpoint import load_trained
from gptlit.model import GPTModel, LoRAConfig, add_lora, base_fingerprint, merge_lora
from gptlit.options import read_option
from gptlit.tasks import Task
from gptlit.tasks.instruction import InstructionTask
from gptlit.tasks.pretrain import PretrainTask
from gptlit.weights.adapter import describe_base
from gptlit.weights.export import export_huggingface, export_safetensors
from gptlit.weights.load import inspect, load_weights
from tests.inference.classifiers import SHAPE, save
from tests.inference.classifiers import make_task as make_classifier

torch.set_num_threads(1)

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q", "v", "fc"]}
CHECKPOINT: dict[str, Any] = {"name": "checkpoint", "path": "?"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Weights in a file of their own."""
    torch.manual_seed(0)
    return save(PretrainTask(model=SHAPE, tokenizer="byte"), tmp_path / "base.ckpt")


def make_task(kind: str) -> Task:
    if kind == "classification":
        return make_classifier(trainable="lora", lora=LORA)
    settings = {"prompt": {"name": "x", "template": "{instruction}>"}, "trainable": "lora"}
    return InstructionTask(model=SHAPE, tokenizer="byte", settings=settings | {"lora": LORA})


def trained(kind: str, base: Path, source: dict[str, Any] | None = None) -> Task:
    """A task whose frozen weights are those of the file, and that has learned something."""
    task = make_task(kind)
    load_weights(task.model, base)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in task.parameters():
            if p.requires_grad:
                p.normal_(std=0.2)
    task.base = describe_base(task.model, source or CHECKPOINT | {"path": str(base)}, "gpt2-nano")
    return task.eval()


def save_adapter(task: Task, path: Path) -> Path:
    """As Lightning does."""
    content: dict[str, Any] = {
        "hyper_parameters": dict(task.hparams),
        "state_dict": task.state_dict(),
        "global_step": 0,
    }
    task.on_save_checkpoint(content)
    torch.save(content, path)
    return path


KINDS = pytest.mark.parametrize("kind", ["instruction", "classification"])


@KINDS
def test_an_adapter_comes_back_onto_its_weights(tmp_path: Path, base: Path, kind: str) -> None:
    task = trained(kind, base)
    path = save_adapter(task, tmp_path / "adapter.ckpt")
    saved = torch.load(path, weights_only=True)["state_dict"]
    names = {name for name, p in task.named_parameters() if p.requires_grad}
    assert saved.keys() == names
    assert path.stat().st_size < base.stat().st_size / 2
    back = load_trained(path)
    assert back.state_dict().keys() == task.state_dict().keys()
    for name, tensor in task.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert not any(p.is_meta for p in back.parameters())


@KINDS
def test_to_resume_the_weights_of_the_run_are_filled_in(
    tmp_path: Path, base: Path, kind: str
) -> None:
    task = trained(kind, base)
    content = torch.load(save_adapter(task, tmp_path / "a.ckpt"), weights_only=True)
    other = make_task(kind)
    load_weights(other.model, base)
    with pytest.raises(UserError, match=r"a LoRA adapter alone: gptlit\.load puts it together"):
        other.on_load_checkpoint(content)  # as in load_from_checkpoint
    other.base = task.base
    other.on_load_checkpoint(content)
    other.load_state_dict(content["state_dict"])
    for name, tensor in task.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@KINDS
def test_python_loads_it_like_any_other(tmp_path: Path, base: Path, kind: str) -> None:
    task = trained(kind, base)
    loaded = gptlit.load(save_adapter(task, tmp_path / "a.ckpt"), device="cpu", precision="fp32")
    whole = gptlit.load(save(task, tmp_path / "b.ckpt"), device="cpu", precision="fp32")
    if isinstance(loaded, Classifier) and isinstance(whole, Classifier):
        assert str(loaded.predict("hello")) == str(whole.predict("hello"))
    else:
        assert isinstance(loaded, LanguageModel) and isinstance(whole, LanguageModel)
        assert loaded.generate("hello", 20) == whole.generate("hello", 20)


def test_the_fingerprint_is_of_the_numbers_not_of_the_file(tmp_path: Path, base: Path) -> None:
    task = trained("instruction", base)
    plain = load_trained(base).model
    mark = base_fingerprint(plain)
    assert base_fingerprint(task.model) == mark
    export_safetensors(plain, "byte", tmp_path / "out.safetensors")
    export_huggingface(plain, "byte", tmp_path / "out", 256, {})
    for path in (tmp_path / "out.safetensors", tmp_path / "out"):
        model = GPTModel(plain.cfg)
        load_weights(model, path)
        assert base_fingerprint(model) == mark
        with torch.no_grad():
            model.trf_blocks[0].att.qkv.bias[3] += 1e-6  # type: ignore[union-attr, index, operator]
        assert base_fingerprint(model) != mark
    assert base_fingerprint(add_lora(plain, LoRAConfig(rank=3))) == mark
    assert base_fingerprint(merge_lora(task.model)) != mark


def test_weights_that_have_moved_are_given(tmp_path: Path, base: Path) -> None:
    task = trained("instruction", base)
    path = save_adapter(task, tmp_path / "a.ckpt")
    moved = base.rename(tmp_path / "moved.ckpt")
    with pytest.raises(UserError) as error:
        gptlit.load(path)
    assert str(error.value) == (
        f"{path} holds a LoRA adapter alone, and the weights that it changes are not at {base}:"
        " give weights.path=PATH of the weights that it was trained on"
    )
    again = gptlit.load(path, weights={"path": str(moved)}, device="cpu", precision="fp32")
    assert isinstance(again, LanguageModel)
    expected = LanguageModel(task, "cpu", "fp32").generate("hello", 9)
    assert again.generate("hello", 9) == expected


def test_other_weights_are_refused(tmp_path: Path, base: Path) -> None:
    path = save_adapter(trained("instruction", base), tmp_path / "a.ckpt")
    torch.manual_seed(5)
    save(PretrainTask(model=SHAPE, tokenizer="byte"), base)
    with pytest.raises(UserError, match=r"a LoRA adapter to other weights than those in .*base\.c"):
        load_trained(path)
    small = PretrainTask(model=SHAPE | {"n_layers": 1}, tokenizer="byte")
    with pytest.raises(UserError, match=r"have emb_dim 32, n_layers 1, .* the model has emb_dim"):
        load_trained(path, str(save(small, tmp_path / "small.ckpt")))


def test_published_weights_are_fetched_again(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = read_option("weights", "book")
    node = {"folder": "", "files": {"base.safetensors": None}}
    source |= {"cache_dir": str(tmp_path / "cache"), "urls": [tmp_path.as_uri()]}
    source["models"] = {"gpt2-nano": node, "gpt2-small": node}
    export_safetensors(load_trained(base).model, "byte", tmp_path / "base.safetensors")
    task = trained("instruction", base, source)
    assert task.base is not None and task.base["source"] == {"name": "book", "path": None}
    monkeypatch.setattr("gptlit.weights.adapter.read_option", lambda group, name: source)
    path = save_adapter(task, tmp_path / "a.ckpt")
    for _ in range(2):  # downloaded, then from the cache
        back = load_trained(path)
        assert torch.equal(back.state_dict()["model.tok_emb.weight"], task.model.tok_emb.weight)
        (tmp_path / "base.safetensors").unlink(missing_ok=True)
    (tmp_path / "cache" / "gpt2-nano" / "base.safetensors").unlink()
    with pytest.raises(UserError, match=r"base\.safetensors.*give weights\.path=PATH of the weigh"):
        load_trained(path)


def test_a_checkpoint_does_not_say_what_is_downloaded(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "evil").write_text("import os")
    task = trained("instruction", base)
    assert task.base is not None
    files = {str(tmp_path / "victim" / "sitecustomize.py"): None}
    task.base["source"] = {
        "name": "book",
        "path": None,
        "cache_dir": str(tmp_path / "victim"),
        "urls": [(tmp_path / "evil").as_uri()],
        "models": {"gpt2-nano": {"folder": "", "files": files}},
    }
    path = save_adapter(task, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"weights=book has .*, but no gpt2-nano"):
        load_trained(path)
    assert not (tmp_path / "victim").exists()


def test_an_adapter_is_no_weights_for_another_run(tmp_path: Path, base: Path) -> None:
    path = save_adapter(trained("instruction", base), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"without the weights .*export\.py ckpt=.* format=safe"):
        inspect(path)
