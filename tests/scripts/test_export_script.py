"""scripts/export.py writes what it promises, or says in one line why not."""

import re
from pathlib import Path

import pytest
import torch
from commands import run
from transformers import AutoTokenizer, GPT2LMHeadModel

from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.export import export_safetensors
from gptlit.weights.load import inspect

TINY = GPTConfig(vocab_size=257, context_length=16, emb_dim=32, n_heads=4, n_layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export_safetensors(GPTModel(TINY), "byte", folder / "bytes.safetensors")
    torch.save({"weights": torch.zeros(3)}, folder / "other.pt")
    (folder / "taken").mkdir()
    (folder / "run" / "checkpoints").mkdir(parents=True)
    export_safetensors(GPTModel(TINY), "byte", folder / "run" / "checkpoints" / "best.ckpt")
    (folder / "run" / "summary.json").write_text('{"metrics": [1]}')
    return folder


def test_a_model_on_bytes_is_exported_with_its_tokenizer(folder: Path) -> None:
    done = run("scripts/export", "ckpt=bytes.safetensors", "out=new/folder", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    tokenizer = AutoTokenizer.from_pretrained(folder / "new" / "folder")
    text = "na\u00efve \N{GRINNING FACE}\0 \n\n it's"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.eos_token_id == 256
    assert GPT2LMHeadModel.from_pretrained(folder / "new" / "folder").config.vocab_size == 257
    text = run("generate", "ckpt=new/folder", "prompt=a", "max_new_tokens=2", cwd=folder)
    assert text.returncode == 0, text.stderr


def test_plain_weights_carry_their_shape_and_tokenizer(folder: Path) -> None:
    args = ("ckpt=bytes.safetensors", "format=safetensors", "out=again.safetensors")
    done = run("scripts/export", *args, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found = inspect(folder / "again.safetensors")
    assert (found.config, found.tokenizer, found.layout) == (TINY, "byte", "gptlit")


MISTAKES = {
    "no out": (["ckpt=bytes.safetensors"], r"out must be given"),
    "taken": (["ckpt=bytes.safetensors", "out=taken"], r"out=taken exists: delete it"),
    "taken at home": (["ckpt=bytes.safetensors", "out=~/taken"], r"out=~/taken exists: delete it"),
    "format": (["ckpt=bytes.safetensors", "out=x", "format=gguf"], r"format=gguf: allowed are hug"),
    "no run": (["out=x"], r"no finished pretrain run in outputs/"),
    "missing": (["ckpt=gpt2-smal", "out=x"], r"gpt2-smal does not exist.*did you mean gpt2-small"),
    "not a model": (["ckpt=other.pt", "out=x"], r"other.pt is not a gptlit checkpoint, nor a GPT"),
    "summary": (["ckpt=run", "out=x"], r"run/summary.json is damaged: repair the file, or move"),
    "unwritable": (["ckpt=bytes.safetensors", "out=other.pt/x"], r"cannot write out=other.pt/x"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line_and_leave_nothing(folder: Path, case: str) -> None:
    args, pattern = MISTAKES[case]
    before = sorted(folder.iterdir())
    done = run("scripts/export", *args, cwd=folder, HOME=str(folder))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert re.search(pattern, done.stderr), done.stderr
    assert sorted(folder.iterdir()) == before
