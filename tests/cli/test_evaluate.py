"""evaluate.py: what it refuses before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from gptlit.cli.evaluate import _check_fits
from gptlit.errors import UserError


@pytest.mark.parametrize("task", ["classification", "instruction"])
def test_only_texts_have_windows_with_a_stride(task: str, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("text,label\nHi,ham\n")
    columns = {"text_column": "text", "label_column": "label", "column": "text"}
    data = {"path": str(table), **columns}
    config: dict[str, Any] = {"data": data, "judge": {"name": "none"}, "stride": None}
    _check_fits(config, "run", task)
    _check_fits({**config, "stride": 8}, "run", "pretrain")
    told = rf"stride=8 is for the windows .* ckpt=run is of task={task}: leave it out"
    with pytest.raises(UserError, match=told):
        _check_fits({**config, "stride": 8}, "run", task)
