"""Truncated, renamed and hostile files of weights: one line each, and nothing is executed."""

import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gptlit.errors import UserError
from gptlit.model import GPTModel
from gptlit.weights.files import find_files
from gptlit.weights.formats import check_size
from gptlit.weights.load import inspect, load_weights
from tests.weights.published import (
    NEEDS_TENSORFLOW,
    TINY,
    bare,
    transformers_model,
    write_huggingface,
    write_openai,
)

TENSORS = bare(transformers_model())


class Hostile:
    """Unpickled by a careless loader, it would leave a file behind."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing_tensor(path: Path) -> None:
    save_file({n: t for n, t in TENSORS.items() if n != "h.1.mlp.c_fc.bias"}, path)


def other_shape(path: Path) -> None:
    save_file({**TENSORS, "h.2.ln_1.bias": torch.zeros(31)}, path)


def not_transposed(path: Path) -> None:
    weights = {n: t.T.contiguous() for n, t in TENSORS.items() if n.endswith("c_attn.weight")}
    save_file({**TENSORS, **weights}, path)


def integers(path: Path) -> None:
    save_file({**TENSORS, "wpe.weight": torch.zeros(48, 32, dtype=torch.int32)}, path)


def other_network(path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3, 3), "encoder.bias": torch.zeros(3)}, path)


def overlapping(path: Path) -> None:
    rewrite_header(path, lambda h: h["wpe.weight"].update(data_offsets=[0, 48 * 32 * 4]))


def beyond_the_end(path: Path) -> None:
    rewrite_header(path, lambda h: h["ln_f.bias"].update(shape=[2**40]))


def rewrite_header(path: Path, change: Callable[[dict], None]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])


def hostile_zip(path: Path) -> None:
    torch.save({**TENSORS, "more": Hostile()}, path)


def hostile_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile()))


def hostile_old_format(path: Path) -> None:
    torch.save({"more": Hostile()}, path, _use_new_zipfile_serialization=False)


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")


def cut_zip(path: Path) -> None:
    torch.save(TENSORS, path)
    cut(path)


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def compressed_zip(path: Path) -> None:
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def torchscript(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def without_numbers(path: Path) -> None:
    torch.save({**TENSORS, "wpe.weight": TENSORS["wpe.weight"].to("meta")}, path)


def nested(path: Path) -> None:
    torch.save({**TENSORS, "ln_f.bias": torch.nested.nested_tensor([torch.ones(3)])}, path)


def unknown_format(path: Path) -> None:
    rewrite_header(path, lambda h: h["wpe.weight"].update(dtype="F6_E2M3", shape=[256, 32]))


def two_in_a_byte(path: Path) -> None:
    rewrite_header(path, lambda h: h["wpe.weight"].update(dtype="F4", shape=[48 * 8, 32]))


DAMAGED: dict[Callable[[Path], None], str] = {
    cut: r"is damaged or cut short: .*; fetch it again",
    cut_in_the_header: r"is damaged or cut short: .*; fetch it again",
    overlapping: r"is damaged or cut short: ",
    beyond_the_end: r"is damaged or cut short: ",
    text: r"is not a gptlit checkpoint, nor a file of weights in another format",
    empty: r"is not a gptlit checkpoint, nor a file of weights in another format",
    missing_tensor: r"h.1.mlp.c_fc.bias should be \(128\), but is not there",
    other_shape: r"h.2.ln_1.bias should be \(32\), but is \(31\)",
    not_transposed: r"h.0.attn.c_attn.weight should be \(32, 96\), but is \(96, 32\)",
    integers: r"wpe.weight as torch.int32: weights must be floats",
    other_network: r"nor a GPT-2 .*: it has the tensors encoder\.\w+, encoder\.\w+$",
    hostile_zip: r"is refused: it holds more than tensors.*nothing in it was executed",
    hostile_pickle: r"is refused: it holds more than tensors.*nothing in it was executed",
    hostile_old_format: r"is refused: it holds more than tensors.*nothing in it was executed",
    other_zip: r"is not a gptlit checkpoint, or is damaged",
    cut_zip: r"is not a gptlit checkpoint, or is damaged",
    no_tensors: r"nor a GPT-2 .*: it has the tensors none",
    compressed_zip: r"packed again by another program, which compressed .* \(zip -0 -r\)$",
    torchscript: r"damaged or cut short: Cannot use ``weights_only=True`` with TorchScript",
    without_numbers: r"wpe.weight as meta: weights must be floats",
    nested: r"ln_f.bias should be \(32\), but is not there",
    unknown_format: r"wpe.weight cannot be read: |is damaged or cut short: ",
    two_in_a_byte: r"wpe.weight as torch.float4_\w+: weights must be floats|wpe.weight cannot be",
}


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_a_damaged_file_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_huggingface(tmp_path / "model.safetensors", TENSORS)
    damage(path)
    with pytest.raises(UserError, match=DAMAGED[damage]) as caught:
        load_weights(GPTModel(TINY), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    path = write_huggingface(tmp_path / "model.safetensors", TENSORS)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padding = (0x80 - length) % 256
    header = content[8 : 8 + length] + b" " * padding
    path.write_bytes((length + padding).to_bytes(8, "little") + header + content[8 + length :])
    assert path.read_bytes()[:1] == b"\x80"
    load_weights(GPTModel(TINY), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.safetensors does not exist"):
        inspect(tmp_path / "nowhere.safetensors")


def test_of_a_folder_of_runs_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "pretrain" / "latest").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "pretrain"):
        with pytest.raises(UserError, match=r"a folder of runs: .* such as .*pretrain/latest$"):
            find_files(folder)


def test_a_model_in_parts_is_whole_or_says_which_part_is_missing(tmp_path: Path) -> None:
    parts = [tmp_path / f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for part in parts:
        save_file({"x": torch.zeros(1)}, part)
    assert find_files(tmp_path) == find_files(parts[1]) == parts
    parts[1].unlink()
    for named in (tmp_path, parts[0]):
        with pytest.raises(UserError, match=r"lacks model-00002-of-00003.safetensors, one of"):
            find_files(named)
    parts[2].rename(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"the parts of models of 00002 and 00003 files"):
        find_files(tmp_path)


def test_a_folder_says_what_it_lacks_or_which_to_choose(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder without checkpoints/best.ckpt, .*ckpt.index$"):
        find_files(tmp_path)
    for name in ("a.bin", "b.bin"):
        torch.save(TENSORS, tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"give one of the files in it: a.bin, b.bin$"):
        find_files(tmp_path)
    (tmp_path / "a.bin").unlink()
    assert find_files(tmp_path) == [tmp_path / "b.bin"]


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("name", ["model.ckpt.index", "model.ckpt.data-00000-of-00001"])
@pytest.mark.parametrize("how", ["cut", "missing", "a wrong byte"])
def test_a_damaged_tensorflow_checkpoint_gives_one_line(
    tmp_path: Path, openai: Path, name: str, how: str
) -> None:
    for path in openai.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = (tmp_path / name).read_bytes()
    if how == "missing":
        (tmp_path / name).unlink()
    elif how == "cut":
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 255])
        (tmp_path / name).write_bytes(content[:middle] + changed + content[middle + 1 :])
    with pytest.raises(UserError, match=r"damaged or incomplete|folder without") as caught:
        load_weights(GPTModel(TINY), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def openai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_openai(tmp_path_factory.mktemp("openai") / "124M", TENSORS)


def test_lists_of_the_same_list_are_refused_in_little_memory() -> None:
    """Ten thousand names for one list of ten thousand numbers."""
    hparams = {"model": {"n_layers": 1}, "more": [[0] * 10_000] * 10_000}
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not plain text"):
            check_size(hparams, most_blocks=1)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
