"""docs/weights.md keeps its word; so do the commands of docs/instruction.md.

A block that is marked ("```sh offline", "```python offline") runs as it stands, in the order of the
page, in one folder, without network. If the next block is `text`, that is what it prints; `...`
stands for lines that are left out. Other `sh` blocks need a network or the reader's own files: they
are checked up to where the work would begin.
"""

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
import torch
from commands import ROOT, environment, run, starter
from omegaconf import OmegaConf

from gptlit.model import GPTConfig, GPTModel
from gptlit.options import model_shape, read_option

PAGE = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
OTHER = (ROOT / "docs" / "instruction.md").read_text(encoding="utf-8")
TOOLS = {"hf", "ollama", "pip", "rsync", "sha256sum"}
"""Commands of the pages that are not ours."""
NO_NETWORK = {f"{name}_PROXY": "http://127.0.0.1:9" for name in ("HTTP", "HTTPS")} | {
    "NO_PROXY": ""
}


@dataclass(frozen=True)
class Block:
    language: str
    offline: bool
    text: str
    prints: str | None = None
    """The `text` block after it."""

    @property
    def fails(self) -> bool:
        return "error: " in (self.prints or "")


def blocks(page: str) -> list[Block]:
    """All fenced blocks but those that show output; in lists they are indented."""
    fence = re.compile(r"^( *)```(\w+)( offline)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    found = [Block(m[2], bool(m[3]), dedent(m[4])) for m in fence.finditer(page)]
    return [
        replace(block, prints=next_.text if next_.language == "text" else None)
        for block, next_ in pairwise([*found, Block("", False, "")])
        if block.language != "text"
    ]


def commands(block: Block) -> list[list[str]]:
    """The words of each command, without the variables that are set for it."""
    lines = block.text.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    given = re.compile(r"[A-Z_]+=")
    return [words[sum(map(bool, map(given.match, words))) :] for words in split if words]


BLOCKS = blocks(PAGE)
SHOWN = [b for b in (*BLOCKS, *blocks(OTHER)) if b.language == "sh" and not b.offline]
NOT_RUN = [words for b in SHOWN for words in commands(b)]
OURS = [words[1:] for words in NOT_RUN if words[0] == "python"]
HYDRA = [words for words in OURS if words[0] != "scripts/download.py"]
DOWNLOADS = [words for words in OURS if words[0] == "scripts/download.py"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's commands are for bash")
def test_what_the_page_shows_is_what_happens(tmp_path: Path) -> None:
    for name in ("train.py", "generate.py", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    printed = []
    for block in BLOCKS:
        if block.offline:
            printed.append(run_block(block, tmp_path))
            if block.prints is not None:
                pattern, output = as_pattern(block.prints), masked(printed[-1], tmp_path)
                assert re.fullmatch(pattern, output), f"{block.text}\nprinted\n{printed[-1]}"
    losses = re.findall(r"validation loss ([\d.]+)", "".join(printed))
    assert losses[1] == losses[2]  # a run begins where the weights that it starts from were left


def run_block(block: Block, folder: Path) -> str:
    """What a block prints: Python's standard output, all that a shell command writes."""
    caches = {"GPTLIT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", block.text]
    if block.language == "sh":
        stop = "" if block.fails else "set -e\n"
        command = ["bash", "-c", f'{stop}python() {{ {starter().python} "$@"; }}\n']
        command[-1] += block.text
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(lean="transformers" not in block.text, **caches, **NO_NETWORK),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if block.language == "sh" else subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    assert bool(done.returncode) == block.fails, (
        f"{block.text}\nprinted\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def masked(text: str, folder: Path) -> str:
    """Output without what differs between runs and between machines; errors as they are."""
    text = text.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    return "".join(
        f"{line if line.startswith('error: ') else _masked_line(line)}\n"
        for line in map(str.rstrip, text.splitlines())
    )


def _masked_line(line: str) -> str:
    line = re.sub(r", on .*, (fp32|bf16|fp16)$", ", on DEVICE", line)
    return re.sub(r"\d[\d,.:_-]*(e[+-]\d+)?", "#", line)


def as_pattern(shown: str) -> str:
    """A pattern of masked output; a line of three dots is any number of lines."""
    lines = masked(shown, ROOT).splitlines()
    return "".join(r"(?:.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in lines)


@pytest.mark.parametrize("words", HYDRA, ids=" ".join)
def test_what_is_not_run_is_understood(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, options, types and ranges are allowed, and nothing that must be given is missing."""
    monkeypatch.setenv("OPENAI_API_KEY", "some-key")
    script, *args = words
    done = run(script.removesuffix(".py"), *args, "--cfg", "job", "--resolve", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    config = OmegaConf.create(done.stdout)
    assert not OmegaConf.missing_keys(config)
    content: Any = OmegaConf.to_container(config)
    importlib.import_module(f"gptlit.cli.{Path(script).stem}").check_config(content)


@pytest.mark.parametrize("words", DOWNLOADS, ids=" ".join)
def test_downloads_ask_for_what_there_is(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, asked = module_of(words[0]), []

    def fetch(source: dict[str, Any], model: str, *_: Any, **__: Any) -> Path:
        assert model in source["models"]
        asked.append(model)
        return tmp_path

    monkeypatch.setattr(script, "fetch", fetch)
    monkeypatch.setattr(sys, "argv", words)
    assert script.main() == 0
    assert asked


def module_of(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_goes_on_repeats_a_command_before_it() -> None:
    """`resume=auto` looks for an unfinished run of the same overrides."""
    earlier: list[list[str]] = []
    for words in (words for block in blocks(OTHER) for words in commands(block)):
        if "resume=auto" in words:
            assert [word for word in words if word != "resume=auto"] in earlier
        earlier.append(words)


def test_other_commands_are_known_ones() -> None:
    assert {words[0] for words in NOT_RUN} <= TOOLS | {"python"}
    extras = set(re.findall(r"gptlit\[(\w+)\]", PAGE))
    assert extras and extras <= set(metadata("gptlit").get_all("Provides-Extra") or ())


def test_the_sizes_are_those_of_the_files() -> None:
    rows = re.findall(r"^\| `(gpt2-\w+)` \| ([\d,]+) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(read_option("weights", "huggingface")["models"])
    for name, parameters, shown in rows:
        cfg = GPTConfig(**model_shape(name))
        with torch.device("meta"):
            count = GPTModel(cfg).num_parameters()
        masks = 4 * cfg.n_layers * cfg.context_length**2
        head = 4 * cfg.vocab_size * cfg.emb_dim
        sizes = (4 * count, 4 * count + masks, 4 * count + masks + head)
        assert parameters == f"{count:,}"
        assert shown.split(" | ") == [f"{size / 1e9:.2f} GB" for size in sizes]
