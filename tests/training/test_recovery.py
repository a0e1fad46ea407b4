"""A damaged checkpoint is never taken for a good one."""

import random
import zipfile
from pathlib import Path

import pytest
import torch

from gptlit.errors import UserError
from gptlit.training.recovery import find_start


def save(path: Path, step: int) -> None:
    hparams = {"task": "pretrain", "model": {}, "tokenizer": "byte"}
    weights = {"a": torch.arange(5000.0), "b": torch.ones(1)}
    torch.save({"hyper_parameters": hparams, "state_dict": weights, "global_step": step}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The three checkpoints of a run."""
    for step, name in enumerate(("best", "previous", "last"), 1):
        save(tmp_path / f"{name}.ckpt", step)
    return tmp_path


def test_a_whole_checkpoint_is_taken_without_a_word(folder: Path) -> None:
    for step, name in enumerate(("best", "previous", "last"), 1):
        start = find_start(folder / f"{name}.ckpt")
        assert (start.step, start.path.name) == (step, f"{name}.ckpt")
        assert start.told == f", resumed at step {step}"


def test_wherever_it_is_cut_the_one_before_it_is_taken(folder: Path) -> None:
    last = folder / "last.ckpt"
    content = last.read_bytes()
    rng = random.Random(0)
    for length in (0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(30))):
        last.write_bytes(content[:length])
        start = find_start(last)
        assert (start.step, start.path.name) == (2, "previous.ckpt")
        assert "last.ckpt" in start.told and "previous.ckpt takes its place" in start.told


def test_a_flipped_bit_of_the_weights_is_found(folder: Path) -> None:
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    at = content.index(torch.arange(5000.0).numpy().tobytes()[:4000])
    for offset in (0, 1000, 3999):
        flipped = content.copy()
        flipped[at + offset] ^= 4
        last.write_bytes(flipped)
        assert find_start(last).step == 2


def test_a_flipped_bit_of_what_describes_the_weights_is_found(folder: Path) -> None:
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    with zipfile.ZipFile(last) as archive:
        pickled = archive.read("last/data.pkl")
    first = content.index(pickled)
    of_several_parts = content.rindex(b"PK\6\7") + 4
    for at in (of_several_parts, *range(first, first + len(pickled))):
        flipped = content.copy()
        flipped[at] ^= 1
        last.write_bytes(flipped)
        assert find_start(last).step == 2


def test_zeros_at_the_end_as_after_a_power_cut(folder: Path) -> None:
    last = folder / "last.ckpt"
    size = last.stat().st_size
    last.write_bytes(last.read_bytes()[: size // 3].ljust(size, b"\0"))
    assert find_start(last).step == 2


def test_the_best_is_better_than_nothing(folder: Path) -> None:
    (folder / "last.ckpt").unlink()
    (folder / "previous.ckpt").write_bytes(b"PK")
    assert find_start(folder / "last.ckpt").step == 1


@pytest.mark.parametrize("name", ["best", "previous"])
def test_a_checkpoint_that_was_asked_for_by_name_has_no_substitute(folder: Path, name: str) -> None:
    path = folder / f"{name}.ckpt"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"{name}.ckpt is not a gptlit checkpoint"):
        find_start(path)


def test_if_all_are_damaged_the_first_is_named(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    (folder / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"last.ckpt is not a gptlit checkpoint"):
        find_start(folder / "last.ckpt")
