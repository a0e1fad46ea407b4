"""`metrics.csv` tells one story, however often the run was killed."""

import csv
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.errors import UserError
from gptlit.training.metrics import read_metrics
from gptlit.training.metrics_csv import MetricsCSV

NAMES = ("train/loss", "train/lr", "val/loss", "val/accuracy")
Entry = tuple[int, dict[str, float]]

metrics = st.dictionaries(st.sampled_from(NAMES), st.floats(width=32), min_size=1)
runs = st.lists(st.tuples(st.integers(0, 3), metrics), min_size=1, max_size=12)
"""Steps between one call and the next, and what is logged."""


def entries_of(run: list[tuple[int, dict[str, float]]]) -> list[Entry]:
    step, entries = 1, []
    for gap, values in run:
        step += gap
        entries.append((step, values))
    return entries


def log(logger: MetricsCSV, entries: list[Entry]) -> None:
    for step, values in entries:
        logger.log_metrics(values, step)


def rows(path: Path) -> list[dict[str, str]]:
    """What was measured; the order of the columns is nobody's concern."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


@settings(max_examples=150)
@given(run=runs, data=st.data())
def test_a_cut_anywhere_and_a_resume_lose_and_double_nothing(
    run: list[tuple[int, dict[str, float]]], data: st.DataObject
) -> None:
    entries = entries_of(run)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, path = Path(folder) / "undisturbed.csv", Path(folder) / "metrics.csv"
        log(MetricsCSV(undisturbed), entries)

        killed_after = data.draw(st.integers(1, len(entries)), label="calls before the kill")
        log(MetricsCSV(path), entries[:killed_after])
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)), label="bytes left")
        path.write_bytes(content[:cut])

        # A checkpoint's step: all of it was logged, and its row had reached the disk.
        open_step = entries[killed_after][0] if killed_after < len(entries) else None
        whole = content[:cut].count(b"\n") - 1  # the first line is the header
        on_disk = [int(row["step"]) for row in rows(undisturbed)[: max(whole, 0)]]
        resumable = [0, *(step for step in on_disk if step != open_step)]
        resumed_from = data.draw(st.sampled_from(resumable), label="resumed from")

        log(MetricsCSV(path, resumed_from), [e for e in entries if e[0] > resumed_from])
        assert rows(path) == rows(undisturbed)
        assert len(list(Path(folder).iterdir())) == 2  # no temporary file is left


def test_each_step_has_one_row_with_all_that_was_measured(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    log(logger, [(10, {"train/loss": 2.0}), (10, {"val/loss": 3.0}), (20, {"train/loss": 1.0})])
    columns, table = read_metrics(tmp_path / "metrics.csv")
    assert columns == ["step", "train/loss", "val/loss"]
    assert table == [
        {"step": "10", "train/loss": "2.0", "val/loss": "3.0"},
        {"step": "20", "train/loss": "1.0", "val/loss": ""},
    ]


@pytest.mark.parametrize("keep_until", [None, 5])
def test_a_new_run_and_one_without_a_file_start_empty(
    tmp_path: Path, keep_until: int | None
) -> None:
    path = tmp_path / "metrics.csv"
    if keep_until is None:
        log(MetricsCSV(path), [(1, {"old": 1.0})])
    log(MetricsCSV(path, keep_until), [(6, {"new": 2.0})])
    assert rows(path) == [{"step": "6", "new": "2.0"}]


def test_what_was_logged_can_be_read_at_once(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": float(step)}, step)
        assert rows(tmp_path / "metrics.csv")[-1]["step"] == str(step)


def test_a_resume_that_logs_nothing_drops_nothing(tmp_path: Path) -> None:
    """It may have been refused."""
    path = tmp_path / "metrics.csv"
    log(MetricsCSV(path), [(1, {"a": 1.0}), (2, {"a": 2.0})])
    before = path.read_bytes()
    MetricsCSV(path, keep_until=1)
    assert path.read_bytes() == before


def test_who_reads_it_meanwhile_finds_whole_rows(tmp_path: Path) -> None:
    """A reader takes what is there in two parts, as `read_text` does of a file that has grown."""
    path = tmp_path / "metrics.csv"
    entries = [(1, {"a": 1.0, "b": 1.0}), (1, {"a": 0.123456789}), (1, {"a": 2.0}), (1, {"c": 3.0})]
    logger = MetricsCSV(path)
    log(logger, [(0, {"a": 1.0}), entries[0]])
    for entry in entries[1:]:
        with path.open() as reader:
            text = reader.read()
            log(logger, [entry])
            text += reader.read()
        assert [row["step"] for row in csv.DictReader(text.splitlines())] == ["0", "1"]
        assert [row["step"] for row in rows(path)] == ["0", "1"]


@pytest.mark.parametrize("step", [2, 3])
def test_a_file_that_was_deleted_meanwhile_begins_anew(tmp_path: Path, step: int) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    log(logger, [(1, {"a": 1.0}), (2, {"a": 2.0})])
    path.unlink()
    log(logger, [(step, {"a": 3.0}), (4, {"a": 4.0})])
    assert rows(path) == [{"step": f"{step}", "a": "3.0"}, {"step": "4", "a": "4.0"}]


DAMAGED = {
    "no header": (b"1,2.0\n2,3.0\n", "line 1: there is no column step"),
    "other separator": (b"step;a\n1;2,0\n", "line 1: there is no column step"),
    "step is text": (b"step,a\n1,2\n<<<<<<<,\n", "line 3: the step is '<<<<<<<', not a whole"),
    "step is no whole number": (b"step,a\n1.5,2\n", "line 2: the step is '1.5', not a whole"),
    "no step": (b"step,a\n,2\n", "line 2: the step is '', not a whole number"),
    "step without end": (b"step,a\n" + b"9" * 5000 + b",2\n", "line 2: Exceeds the limit"),
    "value is text": (b"step,a\n1,two\n", "line 2: could not convert string to float: 'two'"),
    "too many cells": (b"step,a\n1,2,3\n", "line 2: it has more cells than the first line"),
    "no text": (bytes(range(256)), "metrics.csv: 'utf-8' codec can't decode"),
}


@pytest.mark.parametrize(("content", "line"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_told_before_a_run_goes_on_with_it_and_left(
    tmp_path: Path, content: bytes, line: str
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(line)) as error:
        MetricsCSV(path, keep_until=1)
    assert str(error.value).endswith("; repair the file, or move it elsewhere")
    assert path.read_bytes() == content


@given(content=st.one_of(st.binary(), st.text('step,a\n\r";0123.-einf\0').map(str.encode)))
def test_whatever_is_in_the_file_it_is_read_or_told(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"
        path.write_bytes(b"step,a\n" + content)
        with suppress(UserError):
            columns, table = read_metrics(path)
            for row in table:
                assert row.keys() == set(columns) and int(row["step"]) >= 0
                assert all(float(row[name] or 0) is not None for name in columns)


def test_missing_values_and_the_mark_of_other_programs_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == ([], [])
    path.write_text("step,a,b\r\n1,nan\r\n2,,inf\r\n", encoding="utf-8-sig")
    columns, table = read_metrics(path)
    assert columns == ["step", "a", "b"]
    assert [list(row.values()) for row in table] == [["1", "nan", ""], ["2", "", "inf"]]
