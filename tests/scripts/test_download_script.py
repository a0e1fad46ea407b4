"""scripts/download.py fetches ahead of time, once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weights.published import Server, bare, serve, transformers_model, write_huggingface

SCRIPT = Path(__file__).parents[2] / "scripts" / "download.py"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as one:
        yield one


def download(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        cwd=folder,
        env={
            **os.environ,
            "NO_PROXY": "127.0.0.1",
            "GPTLIT_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("source", ["huggingface", "book", "openai"])
def test_each_source_is_fetched_once_into_the_cache(
    tmp_path: Path, server: Server, source: str
) -> None:
    write_huggingface(tmp_path / "files" / "model.safetensors", bare(transformers_model()))
    content = tmp_path / "files" / "model.safetensors"
    if source == "huggingface":
        server.files["/openai-community/gpt2-large/resolve/main/model.safetensors"] = content
        args, env = ["gpt2-large"], {"HF_ENDPOINT": server.url}
    elif source == "book":
        server.files["/gpt2-large-774M.safetensors"] = content
        args, env = ["gpt2-large", "--source", "book", "--url", server.url], {}
    else:  # needs no tensorflow: the files are only kept
        sizes = {"checkpoint": 77, "encoder.json": 1_042_301, "vocab.bpe": 456_318}
        for name in ("hparams.json", "index", "meta", "data-00000-of-00001"):
            sizes[name if "." in name else f"model.ckpt.{name}"] = 100
        for name, size in sizes.items():
            (tmp_path / "files" / name).write_bytes(b" " * size)
            server.files[f"/774M/{name}"] = tmp_path / "files" / name
        args, env = ["gpt2-large", "--source", "openai", "--url", server.url], {}
    for _ in range(2):
        done = download(tmp_path, *args, **env)
        assert done.returncode == 0, done.stderr
    path = Path(done.stdout.partition(": ")[2].rpartition(" (")[0])
    assert tmp_path in path.parents
    got = [r for r in server.requests if r[0] == "GET" and "api" not in r[1]]
    assert len(got) == len(set(got)) == (7 if source == "openai" else 1)


def test_a_chosen_cache_is_used(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    server.files["/gpt2-xl-1558M.safetensors"] = tmp_path / "file"
    args = ["gpt2-xl", "--source", "book", "--url", server.url, "--cache-dir", "here"]
    assert download(tmp_path, *args).returncode == 0
    assert (tmp_path / "here" / "gpt2-xl" / "gpt2-xl-1558M.safetensors").read_bytes() == b"weights"


def test_what_cannot_be_had_is_one_line_that_says_what_to_do(
    tmp_path: Path, server: Server
) -> None:
    done = download(tmp_path, "gpt2-small", "--source", "book", "--url", server.url)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    place = tmp_path / "cache" / "weights" / "book" / "gpt2-small" / "gpt2-small-124M.safetensors"
    for part in (f"{server.url}/gpt2-small-124M.safetensors: HTTP 404", f"put the file at {place}"):
        assert part in done.stderr
    done = download(tmp_path, "gpt2-smal")
    assert done.returncode == 2
    assert "has gpt2-small, gpt2-medium, gpt2-large, gpt2-xl, but no gpt2-smal" in done.stderr


def test_a_mirror_for_the_hub_is_set_by_its_own_variable(tmp_path: Path) -> None:
    done = download(tmp_path, "gpt2-small", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "set HF_ENDPOINT" in done.stderr
