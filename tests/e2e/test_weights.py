"""Published weights in and standard formats out, by the commands that users type."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import TINY, run, write_corpus
from safetensors.torch import load_file, save_file
from transformers import pipeline

from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.names import layout, rows
from tests.weights.published import (
    NEEDS_TENSORFLOW,
    Server,
    bare,
    book_tensors,
    serve,
    transformers_model,
    write_huggingface,
    write_openai,
    write_sparse_safetensors,
)

SHAPE = GPTConfig(context_length=48, emb_dim=32, n_heads=2, n_layers=2)
THEIRS = transformers_model(SHAPE)
STEP = (
    "tokenizer=gpt2",
    "data=text",
    "data.path=corpus.txt",
    "data.batch_size=2",
    "model.emb_dim=32",
    "model.n_heads=2",
    "model.n_layers=2",
    "model.context_length=32",
    "trainer.max_steps=1",
    "optimizer.lr=1e-9",  # what comes out is what went in
    "task.sample.every_n_validations=0",
    "precision=fp32",
    "device=cpu",
    "logger=csv",
    "hydra.run.dir=run",
)
"""One step of a tiny model, whatever published model's name it goes by."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def check_run(folder: Path, console: str, layout_name: str) -> None:
    """The run started from the published numbers, and said so."""
    assert re.search(rf"weights: {layout_name} layout, .*cut from 48 to 32 tokens", console)
    content = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    trained, published = content["state_dict"], bare(THEIRS)
    pairs = {
        "model.trf_blocks.1.att.qkv.weight": published["h.1.attn.c_attn.weight"].T,
        "model.pos_emb.weight": published["wpe.weight"][:32],
        "model.final_norm.bias": published["ln_f.bias"],
    }
    for name, expected in pairs.items():
        torch.testing.assert_close(trained[name], expected, atol=1e-6, rtol=0)


def test_pretraining_goes_on_from_hugging_face(folder: Path, server: Server) -> None:
    write_huggingface(folder / "hub" / "model.safetensors", bare(THEIRS))
    server.add("/openai-community/gpt2/resolve/main", folder / "hub")
    args = ["task=pretrain", "weights=huggingface", "model=gpt2-small"]
    given = [arg for arg in STEP if arg != "data=text"]  # a path alone means text
    env = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = run("train", *args, *given, cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    check_run(folder, done.stdout, "Hugging Face")
    assert server.got("model.safetensors") == 1


def test_two_processes_download_the_books_file_once(folder: Path, server: Server) -> None:
    (folder / "book").mkdir()
    tensors = book_tensors(bare(THEIRS))
    save_file(tensors, folder / "book" / "gpt2-large-774M.safetensors")
    server.add("/book", folder / "book")
    args = ["weights=book", f"weights.urls=[{server.url}/gone,{server.url}/book]"]
    ddp = ["trainer=ddp", "trainer.devices=2", "data.batch_size=1"]
    done = run("train", *STEP, *args, *ddp, "model=gpt2-large", cwd=folder)
    assert done.returncode == 0, done.stderr
    check_run(folder, done.stdout, "book")
    assert server.got("book/gpt2-large-774M.safetensors") == 1


@NEEDS_TENSORFLOW
def test_openais_checkpoint_is_downloaded_and_trained(folder: Path, server: Server) -> None:
    server.add("/gpt-2/models/774M", write_openai(folder / "774M", bare(THEIRS), SHAPE))
    args = ["weights=openai", f"weights.urls=[{server.url}/gpt-2/models]", "model=gpt2-large"]
    done = run("train", *STEP, *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    check_run(folder, done.stdout, "OpenAI")
    cached = folder / "cache" / "weights" / "openai" / "gpt2-large"
    written = run("generate", f"ckpt={cached}", "prompt=Hello", "max_new_tokens=3", cwd=folder)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("Hello")


def test_without_tensorflow_only_openais_format_is_missing(folder: Path, server: Server) -> None:
    (folder / "blocked" / "tensorflow").mkdir(parents=True)
    (folder / "blocked" / "tensorflow" / "__init__.py").write_text("raise ImportError('blocked')")
    write_huggingface(folder / "model.safetensors", bare(THEIRS))
    path = {"PYTHONPATH": str(folder / "blocked")}
    args = ["weights=openai", f"weights.urls=[{server.url}]", "model=gpt2-large"]
    done = run("train", *STEP, *args, cwd=folder, **path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert 'pip install "gptlit[openai]"' in done.stderr
    assert server.requests == []  # half a gigabyte is not fetched in vain
    local = ["weights=huggingface", "weights.path=model.safetensors"]
    done = run("train", *STEP, *local, "logger=default", cwd=folder, **path)
    assert done.returncode == 0, done.stderr


def test_a_published_model_writes_by_its_name(tmp_path: Path) -> None:
    cfg = GPTConfig()
    with torch.device("meta"):
        ours = GPTModel(cfg).state_dict()
    theirs, shapes = layout("huggingface"), {}
    for row, block in rows(cfg.n_layers):
        shape = tuple(ours[row.ours.replace("{i}", str(block))].shape)
        shapes[theirs.names(row, block)[0]] = shape[::-1] if row.linear else shape
    shapes["wte.weight"] = (cfg.vocab_size, cfg.emb_dim)
    write_sparse_safetensors(tmp_path / "zeros", shapes)
    args = ("ckpt=gpt2-small", "weights.path=zeros", "max_new_tokens=3")
    one = run("generate", *args, "prompt=The future of AI is", cwd=tmp_path)
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == "The future of AI is!!!\n"  # the first of equally likely tokens
    session = run("generate", *args, cwd=tmp_path, stdin="one\ntwo\nquit\n")
    assert session.returncode == 0, session.stderr
    assert "one!!!" in session.stdout and "two!!!" in session.stdout


def test_from_pretraining_to_a_transformers_pipeline_and_back(folder: Path) -> None:
    given = [arg for arg in STEP if not arg.startswith(("optimizer", "hydra"))]
    done = run("train", *given, "trainer.max_steps=30", "optimizer.lr=1e-2", cwd=folder)
    assert done.returncode == 0, done.stderr
    out = run("scripts/export", "ckpt=outputs/pretrain/latest", "out=mine", cwd=folder)
    assert out.returncode == 0, out.stderr
    assert "GPT2LMHeadModel.from_pretrained('mine')" in out.stdout
    assert "| steps | 30 |" in (folder / "mine" / "README.md").read_text()
    write = pipeline("text-generation", model=str(folder / "mine"))
    text = write("line 3 says", max_new_tokens=8, do_sample=False)[0]["generated_text"]
    same = ("prompt=line 3 says", "max_new_tokens=8", "precision=fp32")
    for ckpt in ("outputs/pretrain/latest", "mine"):
        ours = run("generate", f"ckpt={ckpt}", *same, cwd=folder)
        assert ours.returncode == 0, ours.stderr
        assert ours.stdout == text + "\n"
    again = run("scripts/export", "ckpt=mine", "out=again", cwd=folder)
    assert again.returncode == 0, again.stderr
    first, second = (load_file(folder / name / "model.safetensors") for name in ("mine", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_starts_from_another_runs_weights(folder: Path) -> None:
    bytes_ = [*TINY, "data=text", "data.path=corpus.txt", "trainer.max_steps=1"]
    first = run("train", *bytes_, "hydra.run.dir=first", cwd=folder)
    assert first.returncode == 0, first.stderr
    plain = ("scripts/export", "ckpt=first", "format=safetensors", "out=first.safetensors")
    assert run(*plain, cwd=folder).returncode == 0
    states = []
    for i, path in enumerate(("first", "first.safetensors")):
        args = ["weights=checkpoint", f"weights.path={path}", "optimizer.lr=1e-9", "seed=7"]
        done = run("train", *bytes_, *args, f"hydra.run.dir=second{i}", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "weights: gptlit layout, first" in done.stdout
        content = torch.load(folder / f"second{i}/checkpoints/last.ckpt", weights_only=True)
        states.append(content["state_dict"])
    saved = torch.load(folder / "first/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in saved.items():
        n = 257 if name.endswith("tok_emb.weight") else None
        torch.testing.assert_close(states[0][name][:n], tensor[:n], atol=1e-6, rtol=0)
        assert torch.equal(states[0][name], states[1][name])


MISTAKES = {
    "unknown source": (["weights=hugginface"], r"unknown weights=hugginface.*mean huggingface"),
    "no path": (["weights=checkpoint"], r"weights.path must be given: add weights.path=\.\.\."),
    "missing file": (["weights.path=nowhere"], r"nowhere: there is no such file"),
    "another shape": (
        ["weights.path=weights.safetensors", "model.n_layers=3"],
        r"n_layers 2, .*the model has .*n_layers 3.*; use model\.",
    ),
    "another tokenizer": (
        ["weights.path=weights.safetensors", "tokenizer=byte"],
        r"50,257 token ids, the run's tokenizer has 257; use tokenizer=gpt2",
    ),
    "longer context": (
        ["weights.path=weights.safetensors", "model.context_length=64"],
        r"know 48 positions.*use model.context_length=48 or less",
    ),
    "not published": (["weights=book", "model=gpt2-nano"], r"weights=book has .*but no gpt2-nano"),
    "unknown key": (["weights=book", "weights.pth=x"], r"did you mean 'weights.path'"),
    "wrong type": (["weights=book", "weights.urls=x"], r"weights.urls=x: expected a list"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line(folder: Path, case: str) -> None:
    args, pattern = MISTAKES[case]
    write_huggingface(folder / "weights.safetensors", bare(THEIRS))
    done = run("train", *STEP, *args, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert re.search(pattern, done.stderr), done.stderr
