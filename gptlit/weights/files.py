"""Files that hold weights: which of them a path means, and what kind each is.

A file is recognised by its bytes; of names, only TensorFlow's `.index` counts.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gptlit.errors import UserError

if TYPE_CHECKING:
    from gptlit.weights.formats import WeightFile  # imports torch, which takes seconds

IN_RUNS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "best.ckpt", "last.ckpt")
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # ends the index of a TensorFlow checkpoint
SHARD = re.compile(r"model-([0-9]+)-of-([0-9]+)\.safetensors")
LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself allows


def find_files(path: Path) -> list[Path]:
    """The files of one model: the file itself, or all parts if it is one of several; or those in a
    folder (a run's, Hugging Face's, TensorFlow's, or one with a single file of weights in it).

    Raises:
        UserError: a folder has none, or it is not clear which is meant, or a part is missing.
    """
    if path.is_dir():
        for name in (*IN_RUNS, "model.safetensors"):
            if (path / name).is_file():
                return [path / name]
        if shards := _shards(path):
            return shards
        files = [f for f in sorted(path.iterdir()) if f.is_file() and kind(f) and _is_whole(f)]
        if len(files) == 1:
            return files
        runs = [run for run in (path / "latest", *sorted(path.glob("*/latest"))) if run.is_dir()]
        if runs:
            raise UserError(f"{path} is a folder of runs: give one of them, such as {runs[0]}")
        names = ", ".join(file.name for file in files)
        several = f"; give one of the files in it: {names}" if files else ""
        raise UserError(
            f"{path} is a folder without {IN_RUNS[0]}, last.ckpt, model.safetensors"
            f" or model.ckpt.index{several}"
        )
    if path.is_file() and SHARD.fullmatch(path.name):
        return _shards(path.parent)
    index = path.with_name(path.name + ".index")  # TensorFlow names a checkpoint by its prefix
    if path.is_file() or not index.is_file():
        return [path]
    return [index]


def _shards(folder: Path) -> list[Path]:
    """The files of a model that was saved in parts; empty if a folder has none.

    Raises:
        UserError: a part is missing, or there are parts of two models.
    """
    parts = {path: match for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    counts = {match[2] for match in parts.values()}
    if len(counts) > 1:
        raise UserError(
            f"{folder} has the parts of models of {' and '.join(sorted(counts))} files: leave those"
            " of one"
        )
    for count in counts:
        for number in range(1, int(count) + 1):
            name = f"model-{number:0{len(count)}}-of-{count}.safetensors"
            if folder / name not in parts:
                raise UserError(
                    f"{folder} lacks {name}, one of the {int(count)} files of the model: fetch it"
                )
    return sorted(parts)


def _is_whole(path: Path) -> bool:
    """Whether a file is not a partial download."""
    return path.suffix != ".part"


def kind(path: Path) -> str | None:
    """ "safetensors", "torch" (a zip or a pickle), "tensorflow", or None for anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
        file.seek(max(0, size - len(TABLE_MAGIC)))
        tail = file.read()
    # Checked first: the length of a header may begin with the byte that begins a pickle.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < LONGEST_HEADER:
        return "safetensors"
    if tail == TABLE_MAGIC or path.suffix == ".index":
        return "tensorflow"
    return "torch" if head.startswith((b"PK\x03\x04", b"\x80")) else None


def identify(path: Path) -> tuple[list[Path], str]:
    """The files of one model, and their kind.

    Raises:
        UserError: there is nothing, or it is of no known kind.
    """
    files = find_files(path)
    if not files[0].is_file():
        raise UserError(f"{path} does not exist")
    kinds = {kind(file) for file in files}
    found = kinds.pop()
    if kinds or found is None:
        raise UserError(
            f"{files[0]} is not a gptlit checkpoint, nor a file of weights in another format"
            " (safetensors, TensorFlow's model.ckpt, PyTorch's .pth or .bin), or it was cut short"
        )
    return files, found


def open_weights(path: Path | str) -> "WeightFile":
    """Open a file or folder of weights of any kind.

    Raises:
        UserError: there is nothing, it is of no known kind, damaged, or holds code; or it is
            TensorFlow's and tensorflow is not installed.
    """
    files, found = identify(Path(path).expanduser())
    from gptlit.weights.formats import SafetensorsFile, TensorFlowFile, TorchFile

    if found == "safetensors":
        return SafetensorsFile(files)
    return TorchFile(files[0]) if found == "torch" else TensorFlowFile(files[0])
