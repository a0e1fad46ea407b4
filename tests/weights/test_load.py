"""Whatever format the numbers come in, the model computes the same; what does not fit is named."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.load import inspect, load_weights
from tests.weights.published import (
    NEEDS_TENSORFLOW,
    TINY,
    bare,
    book_tensors,
    transformers_model,
    write_huggingface,
    write_openai,
    write_sparse_safetensors,
)

LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
MEDIUM = GPTConfig(emb_dim=1024, n_heads=16, n_layers=24)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    return transformers_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def ours_by_name(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """transformers' numbers as our state dict."""
    ours, t = GPTModel(TINY), model.transformer
    with torch.no_grad():
        ours.tok_emb.weight[: TINY.vocab_size] = t.wte.weight
        ours.pos_emb.load_state_dict(t.wpe.state_dict())
        ours.final_norm.load_state_dict(t.ln_f.state_dict())
        for block, h in zip(ours.trf_blocks, t.h, strict=True):
            block.norm1.load_state_dict(h.ln_1.state_dict())
            block.norm2.load_state_dict(h.ln_2.state_dict())
            for linear, conv in (
                (block.att.qkv, h.attn.c_attn),
                (block.att.out_proj, h.attn.c_proj),
                (block.ff.fc, h.mlp.c_fc),
                (block.ff.proj, h.mlp.c_proj),
            ):
                linear.weight.copy_(conv.weight.T)
                linear.bias.copy_(conv.bias)
    return ours.state_dict()


def huggingface(folder: Path, model: GPT2LMHeadModel) -> Path:
    return write_huggingface(folder / "model.safetensors", bare(model))


def prefixed(folder: Path, model: GPT2LMHeadModel) -> Path:
    tensors = {f"transformer.{name}": tensor for name, tensor in bare(model).items()}
    save_file(tensors, folder / "prefixed")
    return folder / "prefixed"


def with_head(folder: Path, model: GPT2LMHeadModel) -> Path:
    tensors = {f"transformer.{name}": tensor for name, tensor in bare(model).items()}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, folder / "with_head.bin")  # the name says nothing
    return folder / "with_head.bin"


def saved_by_transformers(folder: Path, model: GPT2LMHeadModel) -> Path:
    model.save_pretrained(folder / "saved")
    return folder / "saved"


def sharded_by_transformers(folder: Path, model: GPT2LMHeadModel) -> Path:
    model.save_pretrained(folder / "sharded", max_shard_size="100KB")
    assert len(list((folder / "sharded").glob("*.safetensors"))) > 1
    return folder / "sharded"


def pickled(folder: Path, model: GPT2LMHeadModel) -> Path:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def pickled_long_ago(folder: Path, model: GPT2LMHeadModel) -> Path:
    path = folder / "old.bin"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def book(folder: Path, model: GPT2LMHeadModel) -> Path:
    save_file(book_tensors(bare(model)), folder / "book.safetensors")
    return folder / "book.safetensors"


def book_with_optimizer(folder: Path, model: GPT2LMHeadModel) -> Path:
    content = {"model_state_dict": book_tensors(bare(model)), "optimizer_state_dict": {"state": {}}}
    torch.save(content, folder / "model_and_optimizer.pth")
    return folder / "model_and_optimizer.pth"


def nanogpt(folder: Path, model: GPT2LMHeadModel, *, bias: bool = True) -> Path:
    """A checkpoint of its train.py, compiled, with rows past the vocabulary that mean nothing."""
    tensors = {
        name: tensor.T.contiguous() if name.endswith(LINEAR) else tensor
        for name, tensor in bare(model).items()
        if bias or not name.endswith("bias")
    }
    past = torch.ones(50304 - TINY.vocab_size, TINY.emb_dim)
    tensors["wte.weight"] = torch.cat([tensors["wte.weight"], past])
    named = {f"_orig_mod.transformer.{name}": tensor for name, tensor in tensors.items()}
    named["_orig_mod.lm_head.weight"] = tensors["wte.weight"]
    shape = {"n_head": TINY.n_heads, "vocab_size": 50304, "bias": bias}
    content = {"model": named, "optimizer": {"state": {}}, "model_args": shape, "iter_num": 5}
    (folder / "nanogpt").mkdir(exist_ok=True)
    torch.save(content, folder / "nanogpt" / "ckpt.pt")
    return folder / "nanogpt"


def openai(folder: Path, model: GPT2LMHeadModel) -> Path:
    return write_openai(folder / "124M", bare(model))


def plain(folder: Path, model: GPT2LMHeadModel) -> Path:
    torch.save(ours_by_name(model), folder / "ours.pth")
    return folder / "ours.pth"


FORMATS = [
    huggingface,
    prefixed,
    with_head,
    saved_by_transformers,
    sharded_by_transformers,
    pickled,
    pickled_long_ago,
    book,
    book_with_optimizer,
    nanogpt,
    pytest.param(openai, marks=NEEDS_TENSORFLOW),
    plain,
]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_numbers_as_transformers(
    write: Callable[[Path, GPT2LMHeadModel], Path], folder: Path, theirs: GPT2LMHeadModel
) -> None:
    path = write(folder, theirs)
    model = GPTModel(TINY)
    load_weights(model, path)
    ids = torch.randint(TINY.vocab_size, (2, TINY.context_length))
    with torch.no_grad():
        difference = (model.eval()(ids) - theirs(ids).logits).abs().max()
    assert difference <= 1e-5
    expected = ours_by_name(theirs)
    for name, tensor in model.state_dict().items():
        rows = slice(TINY.vocab_size if name == "tok_emb.weight" else None)
        assert torch.equal(tensor[rows], expected[name][rows]), name
    assert not model.tok_emb.weight[TINY.vocab_size :].any()
    found = inspect(path).config
    assert dataclasses.replace(found, n_heads=TINY.n_heads, vocab_size=TINY.vocab_size) == TINY


def test_a_model_without_memory_is_filled_tensor_by_tensor(
    folder: Path, theirs: GPT2LMHeadModel
) -> None:
    path = prefixed(folder, theirs)
    with torch.device("meta"):
        model = GPTModel(TINY)
    load_weights(model, path)
    allocated = GPTModel(TINY)
    load_weights(allocated, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, allocated.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted(
    folder: Path, theirs: GPT2LMHeadModel, dtype: torch.dtype
) -> None:
    path = folder / "typed.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in bare(theirs).items()}, path)
    model = GPTModel(TINY)
    load_weights(model, path)
    expected = theirs.transformer.wpe.weight.to(dtype).float()
    assert model.pos_emb.weight.dtype == torch.float32
    assert torch.equal(model.pos_emb.weight, expected)


def test_a_shorter_context_cuts_the_position_table_and_says_so(
    folder: Path, theirs: GPT2LMHeadModel
) -> None:
    path = huggingface(folder, theirs)
    model = GPTModel(dataclasses.replace(TINY, context_length=20))
    assert "position table cut from 48 to 20 tokens" in load_weights(model, path)
    ids = torch.randint(TINY.vocab_size, (2, 20))
    with torch.no_grad():
        assert (model.eval()(ids) - theirs(ids).logits).abs().max() <= 1e-5


def test_a_bias_of_zeros_is_no_bias(folder: Path) -> None:
    theirs = transformers_model()
    for block in theirs.transformer.h:
        torch.nn.init.zeros_(block.attn.c_attn.bias)
    model = GPTModel(dataclasses.replace(TINY, qkv_bias=False))
    load_weights(model, book(folder, theirs))
    ids = torch.randint(TINY.vocab_size, (2, 20))
    with torch.no_grad():
        assert (model.eval()(ids) - theirs(ids).logits).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 64}, r"know 48 positions.*context_length=64; use .*length=48 or less"),
        ({"vocab_size": 257}, r"50,257 token ids, the run's tokenizer has 257; use tokenizer=gpt2"),
        ({"n_layers": 2}, r"have emb_dim 32, n_layers 3, .*the model has emb_dim 32, n_layers 2"),
        ({"n_heads": 2}, r"n_heads 4, the model has .*n_heads 2; use .*model.n_heads=4"),
        ({"emb_dim": 64}, r"use model.emb_dim=32 model.n_layers=3 model.n_heads=4"),
        ({"qkv_bias": False}, r"have a query, key and value bias; use model.qkv_bias=true"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_with_the_override_that_does(
    folder: Path, theirs: GPT2LMHeadModel, change: dict[str, int], message: str
) -> None:
    path = saved_by_transformers(folder, theirs)
    model = GPTModel(dataclasses.replace(TINY, **change))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_only_our_own_padding_is_no_other_vocabulary(
    tmp_path: Path, theirs: GPT2LMHeadModel
) -> None:
    small = dataclasses.replace(TINY, vocab_size=257)
    torch.save(GPTModel(small).state_dict(), tmp_path / "ours.pth")
    load_weights(GPTModel(small), tmp_path / "ours.pth")
    with pytest.raises(
        UserError, match="are for 320 token ids, the run's tokenizer has 50,257; no"
    ):
        load_weights(GPTModel(TINY), tmp_path / "ours.pth")
    tensors = book_tensors(bare(theirs))  # no padding there
    tensors["tok_emb.weight"] = tensors.pop("out_head.weight")[:320].clone()
    save_file(tensors, tmp_path / "book.safetensors")
    with pytest.raises(UserError, match="are for 320 token ids, the run's tokenizer has 257; no"):
        load_weights(GPTModel(small), tmp_path / "book.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"n_head": 5},
            r"saved.* is not a GPT-2: model.emb_dim \(32\) must be divisible by .* \(5\)",
        ),
        ({"vocab_size": 999}, r"is said to have 999 token ids, but its embedding has 50,257 rows"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_told(
    tmp_path: Path, theirs: GPT2LMHeadModel, change: dict[str, int], message: str
) -> None:
    path = saved_by_transformers(tmp_path, theirs)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        inspect(path)


def test_a_file_without_positions_is_no_gpt2(folder: Path, theirs: GPT2LMHeadModel) -> None:
    tensors = bare(theirs)
    del tensors["wpe.weight"]
    save_file(tensors, folder / "no_positions.safetensors")
    with pytest.raises(UserError, match=r"is not a GPT-2: it has no table wpe.weight$"):
        inspect(folder / "no_positions.safetensors")


def test_weights_without_bias_are_not_taken_for_biased_ones(
    folder: Path, theirs: GPT2LMHeadModel
) -> None:
    tensors = {
        n: t for n, t in book_tensors(bare(theirs)).items() if "W_" not in n or "bias" not in n
    }
    save_file(tensors, folder / "unbiased.safetensors")
    with pytest.raises(UserError, match=r"no query, key and value bias; use model.qkv_bias=false"):
        load_weights(GPTModel(TINY), folder / "unbiased.safetensors")
    model = GPTModel(dataclasses.replace(TINY, qkv_bias=False))
    load_weights(model, folder / "unbiased.safetensors")


def test_a_nanogpt_without_biases_has_zeros_for_them(tmp_path: Path) -> None:
    theirs = transformers_model()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    path = nanogpt(tmp_path, theirs, bias=False)
    found = inspect(path)
    assert (found.layout, found.tokenizer, found.heads_known) == ("nanoGPT", "gpt2", True)
    assert found.config == dataclasses.replace(TINY, qkv_bias=False)
    model = GPTModel(found.config).eval()
    model.trf_blocks[0].norm1.bias.data.fill_(9)
    load_weights(model, path)
    ids = torch.randint(TINY.vocab_size, (2, TINY.context_length))
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() <= 1e-5


def test_the_published_model_that_would_fit_is_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        tensors = GPTModel(MEDIUM).state_dict()
    path = tmp_path / "model.safetensors"
    write_sparse_safetensors(path, {name: tuple(t.shape) for name, t in tensors.items()})
    with torch.device("meta"):
        model = GPTModel(GPTConfig())
    message = r"n_layers 24, n_heads 16, the model has .*n_layers 12.*; use model=gpt2-medium$"
    with pytest.raises(UserError, match=message):
        load_weights(model, path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out_head.weight", r"out_head.weight should be \(50257, 32\), but is \(2, 32\)"),
        ("trf_blocks.1.att.lora", r"more than a GPT-2: trf_blocks.1.att.lora"),
    ],
)
def test_more_than_a_gpt2_is_refused(
    folder: Path, theirs: GPT2LMHeadModel, name: str, message: str
) -> None:
    tensors = {**book_tensors(bare(theirs)), name: torch.randn(2, TINY.emb_dim)}
    save_file(tensors, folder / "more.safetensors")
    with pytest.raises(UserError, match=message):
        load_weights(GPTModel(TINY), folder / "more.safetensors")


def test_an_untied_head_takes_an_untied_model(folder: Path, theirs: GPT2LMHeadModel) -> None:
    tensors = book_tensors(bare(theirs))
    tensors["out_head.weight"][-1, -1] += 1
    save_file(tensors, folder / "untied.safetensors")
    message = r"output head of its own \(out_head.weight\).*use model.tied_head=false$"
    with pytest.raises(UserError, match=message):
        load_weights(GPTModel(TINY), folder / "untied.safetensors")
    model = GPTModel(dataclasses.replace(TINY, tied_head=False))
    load_weights(model, folder / "untied.safetensors")
    assert not inspect(folder / "untied.safetensors").config.tied_head
    assert model.out_head is not None
    head = model.out_head.get_parameter("weight")
    assert torch.equal(head[: TINY.vocab_size], tensors["out_head.weight"])
    assert not head[TINY.vocab_size :].any()


@pytest.mark.parametrize("around", ["module.", "_orig_mod.", "model._orig_mod."])
def test_a_head_of_its_own_is_found_in_what_is_around_the_model(
    tmp_path: Path, theirs: GPT2LMHeadModel, around: str
) -> None:
    state = {around + name: tensor for name, tensor in theirs.state_dict().items()}
    assert f"{around}lm_head.weight" in state
    torch.save(state, tmp_path / "tied.pth")
    assert inspect(tmp_path / "tied.pth").config.tied_head
    head = torch.randn(TINY.vocab_size, TINY.emb_dim)
    torch.save(state | {f"{around}lm_head.weight": head}, tmp_path / "untied.pth")
    model = GPTModel(dataclasses.replace(TINY, tied_head=False))
    load_weights(model, tmp_path / "untied.pth")
    assert model.out_head is not None
    assert torch.equal(model.out_head.get_parameter("weight")[: TINY.vocab_size], head)
    with pytest.raises(UserError, match=rf"own \({around}lm_head.weight\).*model.tied_head=false"):
        load_weights(GPTModel(TINY), tmp_path / "untied.pth")


def test_an_untied_model_starts_from_a_tied_file(tmp_path: Path, theirs: GPT2LMHeadModel) -> None:
    model = GPTModel(dataclasses.replace(TINY, tied_head=False))
    load_weights(model, saved_by_transformers(tmp_path, theirs))
    assert model.out_head is not None
    assert torch.equal(model.out_head.get_parameter("weight"), model.tok_emb.weight)


def test_a_network_that_computes_something_else_is_refused(
    tmp_path: Path, theirs: GPT2LMHeadModel
) -> None:
    path = saved_by_transformers(tmp_path, theirs)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    with pytest.raises(UserError, match=r"activation_function=relu, but GPT-2 has gelu_new"):
        load_weights(GPTModel(TINY), path)


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_as_many_tokens_of_another_language_are_refused(
    tmp_path: Path, theirs: GPT2LMHeadModel, name: str
) -> None:
    path = saved_by_transformers(tmp_path, theirs)
    spelled = [""] * TINY.vocab_size
    spelled[262], spelled[50255] = "\u0120the", "\u0120gazed"

    def write(tokens: list[str]) -> None:
        ids = {token: i for i, token in enumerate(tokens)}
        content = ids if name == "vocab.json" else {"model": {"type": "BPE", "vocab": ids}}
        (path / name).write_text(json.dumps(content))

    write(spelled)
    assert inspect(path).tokenizer == "gpt2"
    write(spelled[::-1])
    with pytest.raises(UserError, match=rf"{name} has as many tokens as GPT-2, but others") as told:
        load_weights(GPTModel(TINY), path)
    assert "\n" not in str(told.value)


def test_a_path_may_be_a_string(folder: Path, theirs: GPT2LMHeadModel) -> None:
    path = pickled(folder, theirs)
    assert inspect(str(path)) == inspect(path)
    load_weights(GPTModel(TINY), str(path))


def test_importing_gptlit_never_imports_tensorflow() -> None:
    code = """
import pkgutil, importlib, sys
import gptlit
for module in pkgutil.walk_packages(gptlit.__path__, "gptlit."):
    importlib.import_module(module.name)
assert "gptlit.weights.formats" in sys.modules
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
