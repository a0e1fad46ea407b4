"""What is said at the end of a run can be typed."""

import io
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from gptlit.training.ending import say_what_next
from gptlit.training.monitored import LOSS


def test_the_next_commands_survive_the_shell() -> None:
    folder = Path("my runs/pretrain/one")
    config = {"output_root": "my runs", "logger": {"tensorboard": True}}
    task: Any = SimpleNamespace(
        command="generate.py", final_metrics={"val/loss": 2, "test/loss": 0.5, "test/f1/spam": 1}
    )
    files: Any = SimpleNamespace(
        best=folder / "best.ckpt", last=folder / "last.ckpt", best_score=0.25, monitored=LOSS
    )
    written = io.StringIO()
    console = Console(file=written, width=20, soft_wrap=True)
    say_what_next(config, folder, task, files, folder / "table.csv", "7 s", console)
    done, test, details, kept, use, show = written.getvalue().splitlines()
    assert (done, test) == ("done in 7 s, best val/loss 0.25", "test:       loss 0.5")
    assert details.endswith("my runs/pretrain/one/table.csv")
    assert kept == f"checkpoint: {files.last}"
    assert shlex.split(use) == ["next:", "python", "generate.py", f"ckpt={folder}"]
    assert shlex.split(show) == ["tensorboard", "--logdir", "my runs"]
