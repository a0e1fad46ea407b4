"""What we hand out, others open without our code, and we take back unchanged."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from gptlit.errors import UserError
from gptlit.inference.generation import Sampling, stream_ids
from gptlit.model import GPTConfig, GPTModel, LoRAConfig, add_lora
from gptlit.tokenizer import END_OF_TEXT, GPT2Tokenizer, get_tokenizer
from gptlit.weights.card import model_card
from gptlit.weights.export import export_huggingface, export_safetensors
from gptlit.weights.hf_tokenizer import tokenizer_files
from gptlit.weights.load import inspect, load_weights
from tests.weights.published import TINY

VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
"""Of OpenAI's files, as tiktoken has them."""

CASES = {
    "gpt2": TINY,
    "without bias": dataclasses.replace(TINY, qkv_bias=False),
    "untied head": dataclasses.replace(TINY, tied_head=False),
    "bytes": dataclasses.replace(TINY, vocab_size=257),
}


def trained(cfg: GPTConfig) -> GPTModel:
    """A model none of whose numbers is at its initial zero or one."""
    torch.manual_seed(1)
    model = GPTModel(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def export(model: GPTModel, out: Path) -> Path:
    name = "gpt2" if model.cfg.vocab_size == 50257 else "byte"
    tokenizer = get_tokenizer(name)
    export_huggingface(model, name, out, tokenizer.eot_id, {"README.md": "hello"})
    return out


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_the_same(tmp_path: Path, case: str) -> None:
    model = trained(CASES[case])
    theirs, report = GPT2LMHeadModel.from_pretrained(
        export(model, tmp_path / "out"), output_loading_info=True
    )
    assert not any(report.values())
    ids = torch.randint(model.cfg.vocab_size, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids), atol=1e-5, rtol=1e-5)
    generated = theirs.generate(ids[:1, :8], max_new_tokens=30, do_sample=False, eos_token_id=None)
    ours = stream_ids(model, [ids[0, :8].tolist()], 30, Sampling())
    assert generated[0, 8:].tolist() == [token for [token] in ours]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["huggingface", "safetensors"])
def test_we_take_it_back_bit_for_bit(tmp_path: Path, case: str, form: str) -> None:
    model, out = trained(CASES[case]), tmp_path / "out"
    if form == "huggingface":
        export(model, out)
    else:
        export_safetensors(model, "gpt2" if model.cfg.vocab_size == 50257 else "byte", out)
    back = GPTModel(model.cfg)
    load_weights(back, out)
    for name, tensor in model.state_dict().items():
        padded = name in ("tok_emb.weight", "out_head.weight")
        rows = slice(model.cfg.vocab_size if padded else None)
        assert torch.equal(back.state_dict()[name][rows], tensor[rows]), name
    found = inspect(out)
    assert found.heads_known
    assert found.tokenizer == ("byte" if case == "bytes" else "gpt2")
    if form == "safetensors":
        assert found.config == model.cfg


def test_padding_rows_are_cut_and_the_head_is_not_stored(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = export(trained(TINY), tmp_path / "out") / "model.safetensors"
    with safe_open(str(path), framework="pt") as file:
        assert file.get_slice("transformer.wte.weight").get_shape() == [50257, TINY.emb_dim]
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert file.metadata()["format"] == "pt"


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    model = trained(CASES["bytes"])
    out = export(model, tmp_path / "out")
    with pytest.raises(UserError, match=r"out=.* exists: delete it, or choose another name"):
        export(model, out)
    with pytest.raises(UserError, match=r"cannot write out=.*: "):
        export_huggingface(model, "byte", tmp_path / "new", 256, {"no/such/folder.txt": "hello"})
    with pytest.raises(UserError, match=r"cannot write out=.*: "):
        export_safetensors(model, "byte", out / "README.md" / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", save)
    with pytest.raises(UserError, match=r"cannot write out=.*No space left on device; choose"):
        export(trained(CASES["bytes"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizers_files_are_those_that_openai_published() -> None:
    files = tokenizer_files(token_bytes(), END_OF_TEXT, 1024)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    assert digests["merges.txt"] == VOCAB_BPE_SHA256
    assert digests["vocab.json"] == ENCODER_JSON_SHA256


def test_transformers_tokenizes_as_we_do(tmp_path: Path) -> None:
    ours = get_tokenizer("gpt2")
    out, files = tmp_path / "out", tokenizer_files(token_bytes(), END_OF_TEXT, 48)
    export_huggingface(trained(TINY), "gpt2", out, ours.eot_id, files)
    theirs = AutoTokenizer.from_pretrained(out)
    for text in ("It's 2024!", "  two  spaces\n\n\tand tabs ", "naïve café 😀 中文 \u2028 x"):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs(END_OF_TEXT)["input_ids"] == [ours.eot_id]
    assert theirs.model_max_length == 48
    writer = AutoModelForCausalLM.from_pretrained(out)
    assert writer.generation_config.eos_token_id == ours.eot_id


def token_bytes() -> list[bytes]:
    tokenizer = get_tokenizer("gpt2")
    return [tokenizer.decode_bytes([i]) for i in range(GPT2Tokenizer.vocab_size)]


def test_the_card_tells_how_it_was_trained() -> None:
    summary = {
        "task": "pretrain",
        "seed": 12345,
        "tokens": 2048000,
        "metrics": {"val/loss": 1.23456789},
        "versions": {"torch": "2.13.0"},
        "git_commit": None,
    }
    card = model_card(trained(TINY), "mine", "outputs/run", "gpt2", summary)
    front = card.split("---\n")[1]
    assert "library_name: transformers" in front and "pipeline_tag: text-generation" in front
    for row in ("| seed | 12345 |", "| tokens | 2,048,000 |", "| val/loss | 1.23457 |"):
        assert row in card
    assert 'pipeline("text-generation"' in card
    assert "None" not in card
    plain = model_card(trained(CASES["bytes"]), "mine", "outputs/run", "byte", None)
    assert "No training summary" in plain


def test_the_config_is_plain_json(tmp_path: Path) -> None:
    config = json.loads((export(trained(TINY), tmp_path / "out") / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert (config["vocab_size"], config["n_positions"], config["n_head"]) == (50257, 48, 4)
    assert config["bos_token_id"] == config["eos_token_id"] == 50256


def test_a_model_that_cannot_be_exported_is_refused_rather_than_written_in_part(
    tmp_path: Path,
) -> None:
    model = add_lora(trained(CASES["bytes"]), LoRAConfig(rank=2))
    with pytest.raises(ValueError, match=r"has LoRA, .* merge_lora it first"):
        export_safetensors(model, "byte", tmp_path / "out")
    packed = trained(CASES["bytes"])
    packed.trf_blocks[0] = nn.Identity()  # whose names are gone, as those of a packed one
    with pytest.raises(ValueError, match=r"no trf_blocks.0.norm1.weight: .* precision="):
        export_safetensors(packed, "byte", tmp_path / "out")
    assert not (tmp_path / "out").exists()
