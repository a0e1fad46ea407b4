"""What a run has measured, read from its `metrics.csv`."""

import csv
from pathlib import Path

from gptlit.errors import UserError


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a `metrics.csv`; none if the file does not exist. A last row that
    was cut short is left out.

    Raises:
        UserError: the file holds something that no run writes.
    """
    if not path.is_file():
        return [], []
    rows, reader = [], None
    try:
        text = path.read_text(encoding="utf-8-sig")  # some programs add a byte-order mark
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(whole.splitlines(), restval="")
        columns = list(reader.fieldnames or [])
        if columns and "step" not in columns:
            raise ValueError("there is no column step")
        for row in reader:
            _check(row)
            rows.append(row)
    except (ValueError, csv.Error) as error:
        where = f"{path}, line {reader.line_num}" if reader else f"{path}"
        raise UserError(f"{where}: {error}; repair the file, or move it elsewhere") from error
    return columns, rows


def _check(row: dict[str, str]) -> None:
    if None in row:
        raise ValueError("it has more cells than the first line has names")
    if not row["step"].isdecimal():
        raise ValueError(f"the step is {row['step'][:40]!r}, not a whole number")
    int(row["step"])  # raises ValueError if it has thousands of digits
    for value in row.values():
        float(value or 0)
