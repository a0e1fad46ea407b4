"""Which run has trained a config already: `skip_if_trained=true` takes its result.

A run folder's `config/trained.json` says which config its results are of. Hydra's `config.yaml` and
`overrides.yaml` beside it belong to the command that trained last: Hydra writes those of each new
command into `config/draft`, where they stay until its run begins.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlit.errors import UserError, short_path
from gptlit.files import read_object, replacing
from gptlit.training.launch import first_process

WITHOUT_EFFECT = frozenset({"resume", "output_root", "skip_if_trained", "debug", "logger", "hydra"})
"""Top-level keys that do not change what is trained."""
RECORD = Path("config") / "trained.json"
"""In a run folder: the config and, once the run has finished, its score; if the run was resumed
with another config, only the config that it began with."""
POINTER = Path("config") / "reused.txt"
"""In the folder of a run that did not train: the folder that it took its result from."""
DRAFT = Path("config") / "draft"
"""In a run folder: the configs of a command whose run has not begun."""
OVERRIDES = Path("config") / "overrides.yaml"
"""In a run folder: what was typed."""


@dataclass(frozen=True)
class Finished:
    """A run that has finished, with its summary and a checkpoint in its folder."""

    folder: Path
    score: float | None
    """What `fit` returned: the best value of the monitored metric."""


def what_counts(config: Any) -> Any:
    """The part of a composed config that changes the result, as it is when read from JSON."""
    return json.loads(json.dumps({k: v for k, v in config.items() if k not in WITHOUT_EFFECT}))


def leaves(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of all keys, by their dotted names."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def check_free(config: dict[str, Any], folder: Path) -> None:
    """Refuse to begin anew in a folder where the run would delete what an earlier one has saved.

    Raises:
        UserError: there is a checkpoint.
    """
    if not any((folder / "checkpoints").glob("*.ckpt")):
        return
    same = trained_config(folder) == what_counts(config)
    go_on = "to go on with it add resume=auto; else " if same else ""
    whose = "" if same else " of another config"
    raise UserError(
        f"{short_path(folder)} holds a run{whose} already: {go_on}choose another folder with"
        " hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep, or delete it"
    )


def told_of_changes(config: dict[str, Any], folder: Path) -> str:
    """A line that says how a resumed run's config differs from the one that it began with; empty if
    it does not. Call this before `begin`, which notes the new config."""
    before = _began(folder)
    if config["resume"] is None or before is None:
        return ""
    was, now = dict(leaves(before)), dict(leaves(what_counts(config)))
    changed = [
        f"{key}={now.get(key)} (was {was.get(key)})"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]
    return f"\nchanged since it began: {', '.join(changed)}" if changed else ""


def begin(config: dict[str, Any], folder: Path) -> None:
    """Note the config that trains in the folder from now on; its results may be reused once
    `finish` is called. The command's configs replace those of the run before.

    A run that is resumed with another config than it began with is a run of neither, and is never
    reused.
    """
    if not first_process():
        return
    (folder / POINTER).unlink(missing_ok=True)
    _accept_draft(folder)
    if config["resume"] is None:
        _write(folder, {"config": what_counts(config)})
    elif trained_config(folder) != what_counts(config):
        _write(folder, {"began": _began(folder)})


def _began(folder: Path) -> Any:
    """The config that the folder's run began with; None if it is not noted."""
    record = _read(folder)
    return record.get("config", record.get("began"))


def finish(folder: Path, score: float | None) -> None:
    """The run has finished: its results may be reused."""
    record = _read(folder)
    if "config" in record and first_process():
        _write(folder, {**record, "score": score})


def finished(folder: Path) -> Finished | None:
    """The folder's run, if it has finished and its summary and a checkpoint are there."""
    record = _read(folder)
    checkpoints = [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    there = (folder / "summary.json").is_file() and any(path.is_file() for path in checkpoints)
    return Finished(folder, record["score"]) if there and "score" in record else None


def find(config: dict[str, Any], folder: Path) -> Finished | None:
    """The newest finished run of the same config: in the run's own folder, or anywhere below
    `<output_root>/<task>`, sweeps included.

    Args:
        config: the checked config. Files that it names are not compared, only their names.
        folder: the run folder.
    """
    wanted = what_counts(config)
    root = Path(config["output_root"]) / config["task"]["name"]
    same = [
        run
        for place in (folder, *_run_folders(root))
        if trained_config(place) == wanted and (run := finished(place))
    ]
    return max(same, key=lambda run: (run.folder / "summary.json").stat().st_mtime, default=None)


def trained_config(folder: Path) -> Any:
    """The config of the folder's results, without keys that have no effect; None if not noted."""
    return _read(folder).get("config")


def take(found: Finished, folder: Path) -> None:
    """Note in the folder of a run that need not train which run it took its result from."""
    if not first_process():
        return
    (folder / POINTER).unlink(missing_ok=True)
    if found.folder.resolve() != folder.resolve():
        there = os.path.relpath(found.folder.resolve(), folder.resolve())  # both may be moved
        with replacing(folder / POINTER) as draft:
            draft.write_text(f"{there}\n")
        _accept_draft(folder)


def drop_draft(folder: Path) -> None:
    """Forget the configs of a command that changed nothing in the folder."""
    if first_process() and (folder / DRAFT).is_dir():
        shutil.rmtree(folder / DRAFT)


def list_in_sweep(folder: Path) -> None:
    """Called in a sweep instead of `drop_draft`, since the sweep's table has a row for each folder
    with new overrides. The draft becomes the folder's configs; if those of an earlier run are
    there, it stays beside them for `newest_overrides`."""
    if not first_process() or not (folder / DRAFT).is_dir():
        return
    if (folder / OVERRIDES).is_file():
        (folder / OVERRIDES).touch()
    else:
        _accept_draft(folder)


def newest_overrides(folder: Path) -> Path:
    """The file with what was typed last, even if its run has not begun."""
    draft = folder / DRAFT / OVERRIDES.name
    return draft if draft.is_file() else folder / OVERRIDES


def _accept_draft(folder: Path) -> None:
    draft = folder / DRAFT
    if draft.is_dir():  # it is not if another command has composed the config
        for path in draft.iterdir():
            path.replace(draft.parent / path.name)
        draft.rmdir()


def result_folder(folder: Path) -> Path:
    """Where a run's results are: its own folder, or the one that it took them from."""
    pointer = folder / POINTER
    if not pointer.is_file():
        return folder
    return Path(os.path.normpath(folder.resolve() / pointer.read_text().rstrip("\n")))


def _run_folders(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        if "summary.json" in files:
            folders.clear()  # there are no runs inside a run
            yield Path(place)


def _read(folder: Path) -> dict[str, Any]:
    return read_object(folder / RECORD) or {}


def _write(folder: Path, record: dict[str, Any]) -> None:
    (folder / RECORD).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECORD) as draft:
        draft.write_text(json.dumps(record, indent=1) + "\n")
