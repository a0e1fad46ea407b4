"""The formats that weights are stored in, each read one tensor at a time.

Reading a file executes nothing in it.
"""

import ctypes
import mmap
import os
import pickle
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlit.errors import UserError, in_one_line
from gptlit.model import is_lora_parameter
from gptlit.weights.hints import (
    Hints,
    hints_from_config,
    hints_from_hparams,
    hints_from_metadata,
    hints_from_openai,
)
from gptlit.weights.lora import merged_lora

PLAIN = (dict, list, tuple, str, int, float, bool, type(None))
MOST_VALUES = 100_000
"""Values that a model's hyperparameters have at most; a classifier's labels are among them."""


class WeightFile(ABC):
    """An open file of named tensors; a context manager.

    `shapes` has every tensor's name and shape, `hints` what else is known.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    hints: Hints
    mapped = False
    """Whether tensors that are read are mapped from the file, not in memory of their own."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU; UserError if its bytes are damaged."""

    def release(self, tensor: Tensor) -> None:
        """Give back the memory of a contiguous part of what was read, once it is no longer used."""
        if self.mapped:
            _forget_pages(tensor)

    def close(self) -> None:
        """Close the file; what was read from it must not be used any more."""
        self._stack.close()

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SafetensorsFile(WeightFile):
    """One safetensors file, or the shards of one model; tensors are mapped, not copied."""

    def __init__(self, files: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        super().__init__()
        self.path, self.mapped = files[0], True
        self._homes: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        metadata: dict[str, str] = {}
        for file in files:
            try:
                handle = self._stack.enter_context(safe_open(str(file), framework="pt"))
                for name in handle.keys():  # noqa: SIM118
                    shapes[name] = tuple(handle.get_slice(name).get_shape())
                    self._homes[name] = handle
                metadata |= handle.metadata() or {}
            except (SafetensorError, OSError, ValueError) as error:
                self._stack.close()
                raise UserError(
                    f"{file} is damaged or cut short: {in_one_line(error)}; fetch it again"
                ) from error
        self.shapes = shapes
        self.hints = hints_from_metadata(metadata) or hints_from_config(self.path.parent)

    def read(self, name: str) -> Tensor:
        from safetensors import SafetensorError

        try:
            tensor: Tensor = self._homes[name].get_tensor(name)
        except SafetensorError as error:  # a number format that PyTorch lacks
            raise UserError(f"{self.path}: {name} cannot be read: {in_one_line(error)}") from error
        return tensor


class TorchFile(WeightFile):
    """A pickled state dict, or a checkpoint with one in it: ours, or another program's."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        content = read_torch(path)
        self.path, self.mapped = path, _can_map(path)
        hparams: Any = content.get("hyper_parameters") if isinstance(content, dict) else None
        self._tensors = _state_dict(content)
        if any(map(is_lora_parameter, self._tensors)):
            if "base" in content:
                raise UserError(
                    f"{path} holds a LoRA adapter without the weights that it changes: put them"
                    f" together with python scripts/export.py ckpt={path} format=safetensors"
                    " out=FILE.safetensors, and give that file"
                )
            if not isinstance(hparams, dict):
                raise UserError(
                    f"{path} has LoRA weights, but does not say how they change the others: save"
                    " the model after gptlit.model.merge_lora(model)"
                )
            self.mapped = False
            try:
                check_size(hparams, most_blocks=len(self._tensors))
                self._tensors = merged_lora(self._tensors, hparams)
            except (RuntimeError, TypeError, ValueError, LookupError) as error:
                raise UserError(
                    f"{path} has LoRA weights that do not fit the model that it describes:"
                    f" {in_one_line(error)}"
                ) from error
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.hints = hints_from_hparams(content) or hints_from_config(path.parent)

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


class TensorFlowFile(WeightFile):
    """OpenAI's format; the only place that imports tensorflow."""

    def __init__(self, index: Path) -> None:
        super().__init__()
        self.path = index
        self._tf = import_tensorflow(str(index.with_suffix("")))
        self._reader = self._guard(self._tf.train.load_checkpoint, str(index.with_suffix("")))
        self.shapes = {
            name: tuple(shape)
            for name, shape in self._guard(self._reader.get_variable_to_shape_map).items()
        }
        self.hints = hints_from_openai(index.parent)

    def read(self, name: str) -> Tensor:
        return torch.from_numpy(self._guard(self._reader.get_tensor, name))

    def _guard(self, call: Any, *args: str) -> Any:
        try:
            return call(*args)
        except (self._tf.errors.OpError, LookupError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{self.path.with_suffix('')} is damaged or incomplete: {in_one_line(error)};"
                " fetch it again"
            ) from error


def read_torch(path: Path) -> Any:
    """What torch.save wrote, without executing anything; tensors are mapped where possible.

    Raises:
        UserError: the file is damaged, or holds more than tensors and plain data.
    """
    mapped = _can_map(path)
    try:
        if _is_compressed(path):
            raise UserError(
                f"{path} was packed again by another program, which compressed what is in it:"
                " unpack it, and pack it without compression (zip -0 -r)"
            )
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles; what matters is an error
            source = path if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        ours = "" if mapped else "not a gptlit checkpoint, and is "
        raise UserError(
            f"{path} is {ours}refused: it holds more than tensors and plain data, which a file of"
            " weights never does; nothing in it was executed"
        ) from error
    except (UserError, MemoryError):  # for the latter, the file is not to blame
        raise
    except Exception as error:  # whatever a damaged pickle makes of PyTorch's reader
        raise UserError(
            f"{path} is not a gptlit checkpoint, or is damaged or cut short: {in_one_line(error)}"
        ) from error


def _can_map(path: Path) -> bool:
    """Whether torch.load can map a file: not one in its old format, nor one called .safetensors,
    whose name it trusts."""
    try:
        return zipfile.is_zipfile(path) and path.suffix != ".safetensors"
    except zipfile.BadZipFile:  # its end says that it has several parts
        return False


def _is_compressed(path: Path) -> bool:
    """Whether a file is a zip of compressed files. torch.save writes none; where torch.load maps
    the zip, it takes the compressed bytes for the numbers, and else they may fill any memory.
    TorchScript compresses its code, which is not read here."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        members = (one for one in archive.infolist() if "/code/" not in one.filename)
        return any(member.compress_type != zipfile.ZIP_STORED for member in members)


def is_plain_tensor(value: Any) -> bool:
    """Whether a value is a dense tensor of floats whose numbers are in the CPU's memory: a pickle
    may also hold sparse or quantized ones, and some without numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
    )


def check_size(hparams: Mapping[str, Any], most_blocks: int) -> None:
    """Make sure, before a model is made, that what describes it is plain and small: a file may
    claim any number of blocks, and hold a list of lists that has no end when it is printed.

    Raises:
        ValueError: it is not.
    """
    waiting: list[Any] = [hparams]
    for value in waiting:
        if isinstance(value, dict | list | tuple):
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
        if len(waiting) > MOST_VALUES or not isinstance(value, PLAIN):
            raise ValueError("its hyperparameters are not plain text, numbers and lists of them")
    shape = hparams["model"]
    blocks = shape.get("n_layers") if isinstance(shape, dict) else None
    if isinstance(blocks, int) and blocks > most_blocks:
        raise ValueError(f"model.n_layers={blocks}, but it has {most_blocks} tensors")


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The named tensors of a pickled file: all of it, or what it has under a usual key."""
    if isinstance(content, dict):
        for node in (
            *(content.get(k) for k in ("state_dict", "model_state_dict", "model")),
            content,
        ):
            if isinstance(node, dict):
                found = {
                    str(k): v for k, v in node.items() if isinstance(v, Tensor) and not v.is_nested
                }
                if found:
                    return found
    return {}


def import_tensorflow(wanted_by: str) -> Any:
    """The module tensorflow; UserError if it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the console is for the user's run
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            f"{wanted_by} needs tensorflow to read a TensorFlow checkpoint, and it is not"
            ' installed: pip install "gptlit[openai]", or use weights=huggingface without it'
        ) from error
    return tensorflow


def _forget_pages(tensor: Tensor) -> None:
    """Drop the whole pages of a mapped tensor from this process; later use reads them again."""
    if not hasattr(mmap, "MADV_DONTNEED") or not tensor.is_contiguous():
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)
