"""generate.py prompts=FILE: what is read, what is written, and what an interruption leaves."""

import errno
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from gptlit.cli.completions import check_output, complete_file, read_prompts
from gptlit.errors import UserError
from gptlit.journal import Journal, progress_path

CONFIG: dict[str, Any] = {
    **{"num_samples": 1, "batch_size": 2, "seed": 0},
    **{"ckpt": "gpt2-small", "weights": {"name": "huggingface"}},
}


class Model:
    """Answers in capitals, with the seed of each row; the third batch ends otherwise."""

    device, precision = "cpu", "fp32"

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.batches: list[str] = []

    def generate(self, prompts: list[str], seed: int, temperature: float) -> list[str]:
        self.batches.append("".join(prompts))
        if self.end is not None and len(self.batches) == 3:
            raise self.end
        return [f"{prompt.upper()}{seed + row}" for row, prompt in enumerate(prompts)]


def complete(
    model: Model, output: Path, prompts: str, checkpoint: Path | None = None, **given: Any
) -> None:
    config = {**CONFIG, "output": str(output), **given}
    any_model: Any = model
    complete_file(any_model, list(prompts), config, {"temperature": 0.5}, checkpoint)


def completions(file: Path) -> list[str]:
    assert file.read_bytes().endswith(b"\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(row["completion"].startswith(row["prompt"].upper()) for row in rows)
    return [row["completion"] for row in rows]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def interrupted(output: Path) -> Path:
    """The output of a command that has four of seven."""
    with pytest.raises(KeyboardInterrupt):
        complete(Model(KeyboardInterrupt()), output, "abcdefg")
    return output


def test_each_prompt_has_its_completions(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete(Model(), output, "abé", num_samples=2, seed=5)
    assert completions(output) == ["A5", "A6", "B7", "B8", "É9", "É10"]
    assert capsys.readouterr().out == f"6 completions written to {output}\n"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interruption_keeps_what_is_done_and_what_was_there(
    output: Path, capsys: pytest.CaptureFixture[str], end: BaseException
) -> None:
    output.write_text("of before\n")
    with pytest.raises(type(end)):
        complete(Model(end), output, "abcdefg")
    told = f"interrupted: 4 of 7 completions are kept in {progress_path(output)}, and the same"
    assert capsys.readouterr().err == f"{told} command goes on with them\n"
    assert output.read_text() == "of before\n"


@pytest.mark.parametrize(("size", "batches"), [(2, ["ef", "g"]), (3, ["def", "g"])])
def test_the_same_command_goes_on(interrupted: Path, size: int, batches: list[str]) -> None:
    model = Model()
    complete(model, interrupted, "abcdefg", batch_size=size)
    assert model.batches == batches
    assert completions(interrupted) == ["A0", "B1", "C2", "D3", "E4", "F5", "G6"]
    assert list(interrupted.parent.iterdir()) == [interrupted]


def test_what_is_kept_is_counted_once(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a batch that was done in part, all is done again."""
    model = Model(KeyboardInterrupt())
    model.batches = [""]
    with pytest.raises(KeyboardInterrupt):
        complete(model, interrupted, "abcdefg", batch_size=3)  # has abc, does def, ends at g
    assert "interrupted: 6 of 7 completions are kept" in capsys.readouterr().err


def test_other_commands_begin_anew_and_leave_it_what_it_has(interrupted: Path) -> None:
    others: list[dict[str, Any]] = [{"prompts": "abcdefh"}, {"seed": 1}, {"ckpt": "gpt2-medium"}]
    for given in others:
        model = Model()
        complete(model, interrupted, **{"prompts": "abcdefg", **given})
        assert len(model.batches) == 4
    model = Model()
    complete(model, interrupted, "abcdefg")
    assert model.batches == ["ef", "g"]


def test_another_checkpoint_of_the_same_name_begins_anew(output: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_text("one")
    with pytest.raises(KeyboardInterrupt):
        complete(Model(KeyboardInterrupt()), output, "abcdefg", checkpoint)
    checkpoint.write_text("another")
    model = Model()
    complete(model, output, "abcdefg", checkpoint)
    assert len(model.batches) == 4


def test_a_full_disk_keeps_what_is_done(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Journal.add

    def full(self: Journal, rows: Any) -> None:
        if len(self.rows) == 4:
            raise UserError(f"cannot write: {errno.errorcode[errno.ENOSPC]}")
        add(self, rows)

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(UserError, match=r"^cannot write: ENOSPC; 4 of 7 completions are kept in "):
        complete(Model(), output, "abcdefg")


def test_an_output_that_cannot_be_written_keeps_what_is_done(output: Path) -> None:
    output.mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*out\.jsonl: .*; 3 of 3 completions are"):
        complete(Model(), output, "abc")


def test_an_interruption_before_the_first_batch_leaves_nothing(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(KeyboardInterrupt())
    model.batches = ["", ""]
    with pytest.raises(KeyboardInterrupt):
        complete(model, output, "ab")
    assert capsys.readouterr().err == "" and list(output.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["prompts.txt", "link.txt", "model.ckpt", "prompts.progress"])
def test_a_file_that_is_read_is_not_written_over(tmp_path: Path, name: str) -> None:
    prompts, checkpoint = tmp_path / "prompts.txt", tmp_path / "model.ckpt"
    for file in (prompts, checkpoint):
        file.touch()
    (tmp_path / "link.txt").symlink_to(prompts)
    progress_path(tmp_path / "prompts.progress").symlink_to(prompts)
    config = {"prompts": str(prompts), "output": str(tmp_path / name)}
    with pytest.raises(UserError, match=r"^output: .* is a file that is read; give another"):
        check_output(config, checkpoint)
    check_output({**config, "output": str(tmp_path / "new.jsonl")}, checkpoint)


TEXT = "\ufeffone\u2028still one\x0cand\x85on\n\n \r\ntwo \r\nthree".encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", TEXT),
        ("prompts", TEXT),
        ("prompts.gz", gzip.compress(TEXT)),
        ("prompts.txt.zst", zstandard.compress(TEXT)),
    ],
    ids=["txt", "no ending", "gz", "zst"],
)
def test_each_line_is_a_prompt(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    prompts = read_prompts(str(tmp_path / name))
    assert prompts == ["one\u2028still one\x0cand\x85on", "two ", "three"]


@pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"\n \n"], ids=["latin", "binary", "empty"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"prompts\.txt (is|has)"):
        read_prompts(str(tmp_path / "prompts.txt"))
