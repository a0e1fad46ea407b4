"""Loads a file of weights, in any layout, into a `GPTModel`: tensor by tensor, none held twice."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel, blank_parameters
from gptlit.options import option_names, read_option
from gptlit.weights.files import open_weights
from gptlit.weights.formats import WeightFile, is_plain_tensor
from gptlit.weights.names import Row, count_blocks, recognise, rows

CHUNK_BYTES = 2**24
"""Most bytes of a mapped table that are read before their pages are given back."""
HEAD_DIM = 64
"""Width of a head in every published GPT-2, for files that do not say how many heads there are."""
TOKENIZERS = {50257: "gpt2", 257: "byte"}


@dataclass(frozen=True)
class Found:
    """What a file holds."""

    config: GPTConfig
    """The shape of the model that it fits."""
    tokenizer: str
    """Name of the tokenizer that its ids belong to; empty if no tokenizer has as many."""
    layout: str
    """"gptlit", "OpenAI", "Hugging Face", "nanoGPT" or "book"."""
    heads_known: bool
    """Whether the file says the number of heads; tensors' shapes do not."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a classifier; `gptlit.weights.classes` reads its head."""
    prompt: Mapping[str, Any] | None = None
    """The fields of the `PromptFormat` of a model that answers instructions."""


def inspect(path: Path | str) -> Found:
    """Look at a file or folder of weights.

    Raises:
        UserError: it is not of a known kind, damaged, or not of a GPT-2.
    """
    with _opened(path) as weights:
        return weights.found


def check_fits(cfg: GPTConfig, path: Path | str) -> None:
    """Make sure that `load_weights` into a model of this shape will not be refused.

    Raises:
        UserError: as `load_weights` raises it.
    """
    with _opened(path) as weights:
        weights.check_fits(cfg)


@torch.no_grad()
def load_weights(model: GPTModel, source: Path | str | WeightFile) -> str:
    """Copy published or trained weights into a model.

    Parameters on the meta device are allocated (fp32, on the CPU) one by one as they are filled;
    others keep their device and type. Rows past the vocabulary become zero.

    Args:
        model: a language model.
        source: a file or folder of any known format, which is recognised by its contents.

    Returns:
        one line that says what was loaded, and what was done to make it fit.

    Raises:
        UserError: the file is damaged or of a known kind but does not fit; the line has both
            shapes and the override that fits. If the file does not fit, the model is unchanged.
    """
    with _opened(source) as weights:
        notes = weights.check_fits(model.cfg)
        for row, block in rows(model.cfg.n_layers):
            name = row.ours.replace("{i}", str(block))
            if row.ours.endswith("qkv.bias") and not model.cfg.qkv_bias:
                continue
            target = _allocated(model, name)
            parts = weights.names(row, block)
            for part, rows_ in zip(parts, target.chunk(len(parts)), strict=True):
                weights.copy(part, row, rows_)
        if not model.cfg.tied_head:
            weights.copy_head(_allocated(model, "out_head.weight"))
        for table in [model.tok_emb, *([model.out_head] if model.out_head else [])]:
            table.get_parameter("weight")[model.cfg.vocab_size :] = 0
        return ", ".join((f"{weights.found.layout} layout, {weights.file.path}", *notes))


class _Weights:
    """An open file whose names and shapes are those of a GPT-2."""

    def __init__(self, file: WeightFile) -> None:
        self.file, self.path = file, file.path
        recognised = recognise(file.shapes)
        if recognised is None:
            some = ", ".join(list(file.shapes)[:3]) or "none"
            raise UserError(
                f"{self.path} is not a gptlit checkpoint, nor a GPT-2 by any names that gptlit"
                f" knows: it has the tensors {some}{', ...' * (len(file.shapes) > 3)}"
            )
        self.layout, self.prefix = recognised
        biases = (
            name for row, _ in rows(1) if row.ours.endswith(".bias") for name in self.names(row, 0)
        )
        self._lacks_bias = self.layout.may_lack_bias and not file.shapes.keys() & set(biases)
        self.found = self._describe()
        self._check_names_and_shapes()
        self._own_head = self._find_own_head()
        tied = self._own_head is None
        self.found = replace(self.found, config=replace(self.found.config, tied_head=tied))

    def names(self, row: Row, block: int) -> list[str]:
        """What the file calls a row of the table."""
        return [self.prefix + name for name in self.layout.names(row, block)]

    def copy(self, name: str, row: Row, target: Tensor) -> None:
        """Copy a tensor of the file into a part of one of ours; it fills the first rows of that."""
        if name not in self.file.shapes:  # a bias that the layout may lack
            target.zero_()
        elif row.linear and self.layout.in_out:
            source = self._read(name)
            target.copy_(source.T)
            self.file.release(source)
        else:
            self._copy_rows(name, target)

    def copy_head(self, target: Tensor) -> None:
        """Copy the file's own head into ours, or its token embedding if that is its head."""
        self._copy_rows(self._own_head or self._table(), target)

    def _copy_rows(self, name: str, target: Tensor) -> None:
        source = self._read(name)
        n_rows = min(len(source), len(target))
        step = max(1, CHUNK_BYTES * len(source) // source.nbytes)
        for start in range(0, n_rows, step):
            part = source[start : min(start + step, n_rows)]
            target[start : start + len(part)] = part
            self.file.release(part)

    def check_fits(self, cfg: GPTConfig) -> list[str]:
        """Notes on what is done to make the file fit a model; UserError if it cannot fit."""
        found, notes = self.found.config, []
        if not self.found.heads_known and found.emb_dim == cfg.emb_dim:
            found = replace(found, n_heads=cfg.n_heads)
        shape = ("emb_dim", "n_layers", "n_heads")
        if any(getattr(found, name) != getattr(cfg, name) for name in shape):
            have, want = (
                ", ".join(f"{name} {getattr(c, name)}" for name in shape) for c in (found, cfg)
            )
            raise UserError(
                f"the weights in {self.path} have {have}, the model has {want}; use"
                f" {_fitting_override(found)}"
            )
        padded = self.layout.column == "ours" and found.vocab_size == cfg.padded_vocab_size
        if found.vocab_size != cfg.vocab_size and not padded:
            tokenizer = self.found.tokenizer
            cure = f"use tokenizer={tokenizer}" if tokenizer else "no tokenizer of gptlit has those"
            raise UserError(
                f"the weights in {self.path} are for {found.vocab_size:,} token ids, the run's"
                f" tokenizer has {cfg.vocab_size:,}; {cure}"
            )
        if found.context_length < cfg.context_length:
            raise UserError(
                f"the weights in {self.path} know {found.context_length:,} positions, fewer than"
                f" model.context_length={cfg.context_length}; use"
                f" model.context_length={found.context_length} or less"
            )
        if found.context_length > cfg.context_length:
            notes.append(
                f"position table cut from {found.context_length:,} to {cfg.context_length:,} tokens"
            )
        self._check_qkv_bias(cfg)
        if cfg.tied_head and self._own_head:
            raise UserError(
                f"{self.path} has an output head of its own ({self._own_head}), not its token"
                " embedding; use model.tied_head=false"
            )
        return notes

    def _describe(self) -> Found:
        shapes, hints = self.file.shapes, self.file.hints
        by_ours = {row.ours: self.names(row, 0) for row, _ in rows(1)}
        for ours in ("tok_emb.weight", "pos_emb.weight"):
            if len(shapes.get(by_ours[ours][0], ())) != 2:
                raise UserError(f"{self.path} is not a GPT-2: it has no table {by_ours[ours][0]}")
        n_rows, width = shapes[by_ours["tok_emb.weight"][0]]
        vocab_size = n_rows if hints.vocab_size is None else hints.vocab_size
        try:
            config = GPTConfig(
                vocab_size=vocab_size,
                context_length=shapes[by_ours["pos_emb.weight"][0]][0],
                emb_dim=width,
                n_heads=hints.n_heads or max(1, width // HEAD_DIM),
                n_layers=count_blocks(shapes, self.layout, self.prefix),
                qkv_bias=by_ours["trf_blocks.{i}.att.qkv.bias"][0] in shapes,
            )
        except ValueError as error:
            raise UserError(f"{self.path} is not a GPT-2: {error}") from error
        if n_rows not in (config.vocab_size, config.padded_vocab_size):
            raise UserError(
                f"{self.path} is said to have {vocab_size:,} token ids, but its embedding has"
                f" {n_rows:,} rows"
            )
        tokenizer = hints.tokenizer or TOKENIZERS.get(vocab_size, "")
        heads_known = hints.n_heads is not None
        title = self.layout.title
        return Found(config, tokenizer, title, heads_known, hints.labels, hints.prompt)

    def _check_names_and_shapes(self) -> None:
        """Make sure that all tensors of the table are there, in the right shape, and no others."""
        config, known = self.found.config, set()
        with blank_parameters():
            ours = GPTModel(config).state_dict()
        for row, block in rows(config.n_layers):
            if row.ours.endswith("qkv.bias") and not config.qkv_bias:
                continue
            wanted = list(ours[row.ours.replace("{i}", str(block))].shape)
            parts = self.names(row, block)
            known.update(parts)
            wanted[0] //= len(parts)
            if row.linear and self.layout.in_out:
                wanted.reverse()
            for name in parts:
                if row.ours.endswith(".bias") and self._lacks_bias:
                    continue
                have = list(self.file.shapes.get(name, ()))
                if row.linear and self.layout.in_out and have[:1] == [1]:
                    del have[0]
                if row.ours == "tok_emb.weight":
                    wanted[0] = have[0]
                if have != wanted:
                    raise UserError(
                        f"{self.path} does not fit together: {name} should be"
                        f" {_shape(wanted)}, but is {_shape(have) if have else 'not there'}"
                    )
        others = re.compile(re.escape(self.prefix) + self.layout.others)
        unknown = [
            name
            for name in self.file.shapes
            if name.startswith(self.prefix)
            and name not in known | set(self._heads())
            and not others.fullmatch(name)
        ]
        if unknown:
            raise UserError(
                f"{self.path} has more than a GPT-2: {', '.join(unknown[:3])}"
                f"{', ...' * (len(unknown) > 3)}"
            )

    def _read(self, name: str) -> Tensor:
        tensor = self.file.read(name)
        packed = tuple(tensor.shape) != self.file.shapes[name]  # several numbers in a byte
        if packed or not is_plain_tensor(tensor):
            odd = tensor.device if tensor.is_meta else tensor.layout
            kind = tensor.dtype if packed or not tensor.is_floating_point() else odd
            raise UserError(f"{self.path} has {name} as {kind}: weights must be floats")
        return tensor.squeeze(0) if tensor.dim() == 3 else tensor

    def _heads(self) -> list[str]:
        """Names that the head may have: it is beside the body, or in any of the modules around it,
        as DDP, torch.compile and Lightning add them."""
        if self.layout.head is None:
            return []
        around = accumulate(f"{part}." for part in self.prefix.split(".")[:-1])
        return [prefix + self.layout.head for prefix in ("", *around)]

    def _check_qkv_bias(self, cfg: GPTConfig) -> None:
        """Make sure that file and model both have a bias, or neither; zeros in a file are none."""
        if cfg.qkv_bias and not self.found.config.qkv_bias:
            raise UserError(
                f"the weights in {self.path} have no query, key and value bias; use"
                " model.qkv_bias=false"
            )
        if cfg.qkv_bias or not self.found.config.qkv_bias:
            return
        for row, block in rows(cfg.n_layers):
            if row.ours.endswith("qkv.bias"):
                for name in self.names(row, block):
                    if bool(self._read(name).any()):
                        raise UserError(
                            f"the weights in {self.path} have a query, key and value bias; use"
                            " model.qkv_bias=true"
                        )

    def _table(self) -> str:
        """Name of the token embedding."""
        return self.names(next(iter(rows(1)))[0], 0)[0]

    def _find_own_head(self) -> str | None:
        """Name of a head that is stored beside the embedding and differs from it; else None."""
        stored = next((name for name in self._heads() if name in self.file.shapes), None)
        if stored is None:
            return None
        head, table = self._read(stored), self._read(self._table())
        if head.shape != table.shape:
            raise UserError(
                f"{self.path} does not fit together: {stored} should be"
                f" {_shape(list(table.shape))}, but is {_shape(list(head.shape))}"
            )
        same = True
        step = max(1, CHUNK_BYTES * len(table) // table.nbytes)
        for start in range(0, len(table), step):
            a, b = head[start : start + step], table[start : start + step]
            same = same and torch.equal(a, b)
            self.file.release(a)
            self.file.release(b)
        return None if same else stored


@contextmanager
def _opened(source: Path | str | WeightFile) -> Iterator[_Weights]:
    """A file's weights; one that was open before stays open."""
    with nullcontext(source) if isinstance(source, WeightFile) else open_weights(source) as file:
        yield _Weights(file)


def _allocated(model: GPTModel, name: str) -> Tensor:
    """A parameter of the model; one on the meta device is first given memory."""
    parameter = model.get_parameter(name)
    if parameter.is_meta:
        owner, _, leaf = name.rpartition(".")
        memory = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
        parameter = nn.Parameter(memory, requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), leaf, parameter)
    return parameter


def _fitting_override(found: GPTConfig) -> str:
    """The option of conf/model that has a shape, or the overrides that set it."""
    shape = ("emb_dim", "n_layers", "n_heads")
    for name in option_names("model"):
        if all(read_option("model", name).get(key) == getattr(found, key) for key in shape):
            return f"model={name}"
    return " ".join(f"model.{key}={getattr(found, key)}" for key in shape)


def _shape(sizes: list[int]) -> str:
    return "(" + ", ".join(map(str, sizes)) + ")"
