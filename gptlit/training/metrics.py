"""What a run has measured, read from its `metrics.csv`."""

import csv
from pathlib import Path


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a `metrics.csv`; a last row that was cut short is left out."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(whole.splitlines())
    rows = list(reader)
    return list(reader.fieldnames or []), rows
