"""A GPT-2 of random numbers in the published formats, with names and layouts spelled out here, and
a server that offers files at the published paths."""

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from gptlit.model import GPTConfig

TINY = GPTConfig(context_length=48, emb_dim=32, n_heads=4, n_layers=3)
NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="tensorflow is not installed: pip install 'gptlit[openai]'",
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def transformers_model(cfg: GPTConfig = TINY, seed: int = 0) -> GPT2LMHeadModel:
    """transformers' model, none of its numbers at its initial zero or one."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_head=cfg.n_heads,
            n_layer=cfg.n_layers,
        )
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def bare(model: GPT2LMHeadModel) -> dict[str, Tensor]:
    """The numbers, by the names in openai-community/gpt2: no prefix, no head."""
    return {name: p.detach() for name, p in model.transformer.named_parameters()}


def write_huggingface(path: Path, tensors: dict[str, Tensor], **more: Tensor) -> Path:
    """One safetensors file, with the causal masks that the published ones carry."""
    n_layers = sum(name.endswith("ln_1.weight") for name in tensors)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 4, 4).tril() for i in range(n_layers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**tensors, **masks, **more}, path, {"format": "pt"})
    return path


def book_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as the book's GPTModel names and stores them."""
    found = {
        "tok_emb.weight": tensors["wte.weight"],
        "pos_emb.weight": tensors["wpe.weight"],
        "final_norm.scale": tensors["ln_f.weight"],
        "final_norm.shift": tensors["ln_f.bias"],
        "out_head.weight": tensors["wte.weight"].clone(),
    }
    for i in range(sum(name.endswith("ln_1.weight") for name in tensors)):
        theirs, block = f"h.{i}.", f"trf_blocks.{i}."
        for j in (1, 2):
            found[f"{block}norm{j}.scale"] = tensors[f"{theirs}ln_{j}.weight"]
            found[f"{block}norm{j}.shift"] = tensors[f"{theirs}ln_{j}.bias"]
        weights = tensors[f"{theirs}attn.c_attn.weight"].chunk(3, dim=1)
        biases = tensors[f"{theirs}attn.c_attn.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            found[f"{block}att.W_{part}.weight"] = weight.T.contiguous()
            found[f"{block}att.W_{part}.bias"] = bias.clone()
        for ours, conv in (
            ("att.out_proj", "attn.c_proj"),
            ("ff.layers.0", "mlp.c_fc"),
            ("ff.layers.2", "mlp.c_proj"),
        ):
            found[f"{block}{ours}.weight"] = tensors[f"{theirs}{conv}.weight"].T.contiguous()
            found[f"{block}{ours}.bias"] = tensors[f"{theirs}{conv}.bias"]
        found[f"{block}att.mask"] = torch.ones(4, 4).triu(1)
    return found


def openai_variables(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers by OpenAI's variable names, convolutions with a leading axis of 1."""
    found = {
        "model/wte": tensors["wte.weight"],
        "model/wpe": tensors["wpe.weight"],
        "model/ln_f/g": tensors["ln_f.weight"],
        "model/ln_f/b": tensors["ln_f.bias"],
    }
    for i in range(sum(name.endswith("ln_1.weight") for name in tensors)):
        for part in ("ln_1", "ln_2"):
            found[f"model/h{i}/{part}/g"] = tensors[f"h.{i}.{part}.weight"]
            found[f"model/h{i}/{part}/b"] = tensors[f"h.{i}.{part}.bias"]
        for conv in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"):
            name = f"h.{i}.{conv.replace('/', '.')}"
            found[f"model/h{i}/{conv}/w"] = tensors[f"{name}.weight"][None]
            found[f"model/h{i}/{conv}/b"] = tensors[f"{name}.bias"]
    return found


def write_openai(folder: Path, tensors: dict[str, Tensor], cfg: GPTConfig = TINY) -> Path:
    """OpenAI's folder, its checkpoint written by tensorflow; the tokenizer's two files have the
    published length."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        holes = {}
        for name, tensor in openai_variables(tensors).items():
            hole = v1.placeholder(tf.float32, tensor.shape)
            holes[hole] = tensor.numpy()
            v1.get_variable(name, initializer=hole)
        session.run(v1.global_variables_initializer(), holes)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"))
    hparams = {
        "n_vocab": cfg.vocab_size,
        "n_ctx": cfg.context_length,
        "n_embd": cfg.emb_dim,
        "n_head": cfg.n_heads,
        "n_layer": cfg.n_layers,
    }
    lines = ",\n".join(f'  "{name}": {value}' for name, value in hparams.items())
    (folder / "hparams.json").write_text(f"{{\n{lines}\n}}\n")
    (folder / "encoder.json").write_bytes(b" " * 1_042_301)
    (folder / "vocab.bpe").write_bytes(b" " * 456_318)
    return folder


def write_sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A file of zeros that takes no space on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


class Server:
    """Files at URL paths; what is not there is an error. Answers as Hugging Face's hub does."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, Path] = {}
        self.requests: list[tuple[str, str]] = []
        self.error = 404
        self.change: Callable[[bytes], bytes] = lambda content: content

    def add(self, prefix: str, folder: Path) -> None:
        """All files of a folder, below a URL path."""
        for path in folder.iterdir():
            self.files[f"{prefix}/{path.name}"] = path

    def got(self, name: str) -> int:
        """How many times a file was asked for in full."""
        return sum(verb == "GET" and path.endswith(name) for verb, path in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler, verb: str) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((verb, path))
        file = self.files.get(path)
        if file is None:
            handler.send_error(self.error)
            return
        content = self.change(file.read_bytes())
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", f'"{file.stat().st_mtime_ns:x}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.end_headers()
        if verb == "GET":
            handler.wfile.write(content)


@contextmanager
def serve() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self, "GET")

        def do_HEAD(self) -> None:
            server.answer(self, "HEAD")

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(http.server_port)
    thread = threading.Thread(target=http.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)
