"""Published weights come from where the config says, once, and are checked."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel
from gptlit.options import model_shape, option_names, read_option
from gptlit.weights.fetch import fetch
from gptlit.weights.load import inspect, load_weights
from tests.weights.published import (
    NEEDS_TENSORFLOW,
    TINY,
    Server,
    bare,
    book_tensors,
    serve,
    transformers_model,
    write_huggingface,
    write_openai,
)

THEIRS = transformers_model()
SMALL = "gpt2-small"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as one:
        yield one


def mirrored(name: str, server: Server, cache: Path, **sizes: int | None) -> dict[str, Any]:
    """An option of conf/weights with our server for its mirrors; sizes as given, or unchecked."""
    node = read_option("weights", name)
    files = node["models"][SMALL]["files"]
    files.update({file: sizes.get(file) for file in files})
    return {**node, "urls": [f"{server.url}/{name}"], "cache_dir": str(cache)}


def write_book(folder: Path) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(book_tensors(bare(THEIRS)), folder / "gpt2-small-124M.safetensors")
    return folder


def test_every_published_size_has_a_source_in_every_option() -> None:
    shapes = {name: read_option("model", name) for name in option_names("model")}
    published = {
        name
        for name, shape in shapes.items()
        if shape["context_length"] == 1024 and shape["emb_dim"] == 64 * shape["n_heads"]
    }
    assert len(published) == 4
    for option in ("huggingface", "openai", "book"):
        assert set(read_option("weights", option)["models"]) == published


@pytest.mark.parametrize("name", [SMALL, "gpt2-medium"])
def test_the_sizes_in_the_config_are_those_of_the_variables(name: str) -> None:
    """OpenAI's data file is its variables in fp32, one after the other, and nothing else."""
    with torch.device("meta"):
        parameters = GPTModel(GPTConfig(**model_shape(name))).num_parameters()
    files = read_option("weights", "openai")["models"][name]["files"]
    assert files["model.ckpt.data-00000-of-00001"] == 4 * parameters


@NEEDS_TENSORFLOW
def test_openais_files_are_fetched_once_verified_and_loaded(server: Server, tmp_path: Path) -> None:
    folder = write_openai(tmp_path / "124M", bare(THEIRS))
    assert len(list(folder.iterdir())) == 7
    assert (folder / "checkpoint").stat().st_size == 77
    server.add("/openai/124M", folder)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    source = mirrored("openai", server, tmp_path / "cache", **sizes)
    found = fetch(source, SMALL)
    assert found == tmp_path / "cache" / SMALL
    assert all((found / name).read_bytes() == (folder / name).read_bytes() for name in sizes)
    model = GPTModel(TINY)
    load_weights(model, found)
    ids = torch.randint(TINY.vocab_size, (2, 40))
    with torch.no_grad():
        assert (model.eval()(ids) - THEIRS(ids).logits).abs().max() <= 1e-5
    fetch(source, SMALL)
    assert all(server.got(name) == 1 for name in sizes)


def test_a_file_of_another_size_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.add("/book", write_book(tmp_path / "files"))
    source = mirrored("book", server, tmp_path / "cache", **{"gpt2-small-124M.safetensors": 7})
    message = (
        r"has \d+ bytes, expected 7.*put the file at .*by hand, or give weights.path=PATH, or train"
        " from random weights with weights=none"
    )
    with pytest.raises(UserError, match=message):
        fetch(source, SMALL)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_backup_mirror_is_asked_when_the_first_is_down(server: Server, tmp_path: Path) -> None:
    server.add("/book", write_book(tmp_path / "files"))
    source = mirrored("book", server, tmp_path / "cache")
    source["urls"] = [f"{server.url}/gone", *source["urls"]]
    found = fetch(source, SMALL)
    load_weights(GPTModel(TINY), found)


def test_a_cache_filled_by_hand_needs_no_network(tmp_path: Path) -> None:
    source = read_option("weights", "book") | {"cache_dir": str(tmp_path), "urls": []}
    write_book(tmp_path / SMALL)
    assert inspect(fetch(source, SMALL)).config.emb_dim == TINY.emb_dim


def test_a_local_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path / "any.name", bare(THEIRS))
    for option in ("huggingface", "openai", "book", "checkpoint"):
        assert fetch(read_option("weights", option) | {"path": str(path)}, "my-model") == path


def test_a_size_that_is_not_published_is_named() -> None:
    source = read_option("weights", "huggingface")
    message = r"weights=huggingface has gpt2-small, .* but no gpt2-nano: use model=gpt2-"
    with pytest.raises(UserError, match=message):
        fetch(source, "gpt2-nano")
    with pytest.raises(
        UserError, match=r"weights=none has no published models: choose weights=hug"
    ):
        fetch(read_option("weights", "none"), SMALL)


FETCH = """
import sys
from pathlib import Path
from gptlit.errors import UserError
from gptlit.options import read_option
from gptlit.weights.fetch import fetch
try:
    print(fetch(read_option("weights", "huggingface"), "gpt2-small"))
except UserError as error:
    print("error:", error)
"""


def from_hub(endpoint: str, home: Path, **env: str) -> str:
    """What fetching from a hub prints, in a process of its own: it reads its settings once."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH],
        env={**os.environ, "NO_PROXY": "127.0.0.1", **settings, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_hugging_faces_hub_is_asked_once_and_its_cache_used(server: Server, tmp_path: Path) -> None:
    write_huggingface(tmp_path / "files" / "model.safetensors", bare(THEIRS))
    server.add("/openai-community/gpt2/resolve/main", tmp_path / "files")
    path = Path(from_hub(server.url, tmp_path / "home"))
    assert tmp_path / "home" in path.parents
    load_weights(GPTModel(TINY), path)
    assert server.got("model.safetensors") == 1
    asked = len(server.requests)
    assert from_hub(server.url, tmp_path / "home") == str(path)
    assert from_hub(server.url, tmp_path / "home", HF_HUB_OFFLINE="1") == str(path)
    assert len(server.requests) == asked


def test_without_the_file_in_its_cache_an_offline_hub_says_what_to_do(tmp_path: Path) -> None:
    line = from_hub("https://huggingface.co", tmp_path, HF_HUB_OFFLINE="1")
    assert line.startswith(
        "error: cannot download"
        " https://huggingface.co/openai-community/gpt2/resolve/main/model.safetensors:"
        " HF_HUB_OFFLINE is set."
    )
    assert "fetch the file by hand and give weights.path=PATH" in line
    assert "weights=none" in line


def test_a_hub_out_of_reach_is_tried_once(server: Server, tmp_path: Path) -> None:
    server.error = 503
    line = from_hub(server.url, tmp_path)
    assert line.startswith(f"error: cannot download {server.url}/openai-community/gpt2/")
    assert "503" in line
    assert sum(path.endswith("model.safetensors") for _, path in server.requests) == 1


def test_a_hub_without_the_file_is_named(server: Server, tmp_path: Path) -> None:
    line = from_hub(server.url, tmp_path)
    assert line.startswith(f"error: cannot download {server.url}/openai-community/gpt2/")
    assert "404" in line and "\n" not in line
