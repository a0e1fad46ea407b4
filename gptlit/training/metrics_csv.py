"""Metrics as a CSV that survives kills and resumes: one row per step, written as it comes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from gptlit.files import replacing
from gptlit.training.metrics import read_metrics


class MetricsCSV(Logger):
    """Writes `metrics.csv`: a row per logged step, a column per metric, empty where not measured.

    The file grows by whole rows. Any other change replaces it, so that a kill never leaves, and a
    reader never finds, a half-changed file.

    Args:
        path: the file; its folder exists.
        keep_until: in a resumed run, the step that it resumes from. Later rows will be measured
            again; they are dropped when the first new row is written. None starts a new file.

    Raises:
        UserError: the file of the resumed run is damaged.
    """

    def __init__(self, path: Path, keep_until: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._columns = ["step"]
        self._last: int | None = None
        """The step of the last row."""
        self._kept: list[dict[str, str]] | None = None
        """The resumed run's rows to keep, until the first new row is written. The file is left
        alone before that, as the resume may still be refused."""
        if keep_until is not None:
            columns, rows = read_metrics(path)
            self._columns = columns or self._columns
            self._kept = [row for row in rows if int(row["step"]) <= keep_until]

    @property
    def name(self) -> str:
        """Lightning's name for this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: there is one file per run folder."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the composed config is in the run folder already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the metrics to the row of the step, and write it."""
        if self._kept is not None:
            self._rewrite(self._kept)
            self._kept = None
        new = sorted(name for name in metrics if name not in self._columns)
        self._columns += new
        if self._last not in (None, step) and not new and self.path.exists():
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow({"step": step, **metrics})
            self._last = step
            return
        rows: list[dict[str, Any]] = []
        if self._last is not None:
            rows += read_metrics(self.path)[1]
        row = rows.pop() if rows and self._last == step else {"step": step}
        self._rewrite([*rows, {**row, **metrics}])

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with replacing(self.path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._last = int(rows[-1]["step"]) if rows else None
