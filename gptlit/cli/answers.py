"""python evaluate.py with an instruction-tuned model: its answers, and a judge's scores."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlit.cli.build import build_data, read_run_config
from gptlit.cli.output import alone, check_unread
from gptlit.cli.schema import INSTRUCTION_FIELDS
from gptlit.errors import UserError
from gptlit.evaluation.judge_api import JudgeSettings
from gptlit.journal import progress_path


def evaluate_answers(config: dict[str, Any], ckpt: Path, model: Any) -> None:
    """Answer the test split of the model's run, or the entries of data=FILE; score the answers
    against their references and, if a judge is chosen, let it score them too.

    Args:
        config: of evaluate.py.
        ckpt: the checkpoint file.
        model: the `LanguageModel` in it.
    """
    from gptlit.evaluation.answers import write_json
    from gptlit.evaluation.instruction import ANSWERS, answer_entries, answers_others

    data = config["data"]
    if data["path"] is None:
        entries, sources = _test_split(ckpt)
        default = ckpt.parent.parent / ANSWERS
    else:
        entries, source = _file(data)
        sources, default = [source], Path(f"{_name(source)}-{ANSWERS}")
    path = Path(config["output"] or default)
    scored, judged = (path.with_name(f"{path.stem}-{what}.json") for what in ("scores", "judged"))
    results = [path, scored, judged]
    check_unread([*results, *map(progress_path, results)], [ckpt, *sources])
    settings = {"max_new_tokens": config["max_new_tokens"], "batch_size": config["batch_size"]}
    with alone(path, progress_path(path)):
        unasked = config["output"] is None and data["path"] is not None
        if unasked and answers_others(path, entries):
            raise UserError(
                f"{path} is there already and holds no answers to the entries of {sources[0]}: give"
                " output=FILE, or move or delete it"
            )
        try:
            answered, scores = answer_entries(model, entries, path, ckpt, settings, _warn)
            print(f"answers:        {path} ({len(answered):,})")
            for name, value in scores.items():
                print(f"{name + ':':<23} {value:.4g}")
            write_json(scored, scores)
            if config["judge"]["name"] != "none":
                _judge(answered, JudgeSettings(**config["judge"]), path, judged)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where it stopped", file=sys.stderr)
            raise


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _file(data: dict[str, Any]) -> tuple[list[Any], Path]:
    """The entries of data=FILE, and the file."""
    from gptlit.data.entry import Fields
    from gptlit.data.instruction_files import read_entries, tell_broken

    path = data["path"]
    if not isinstance(path, str):
        raise UserError("data=[...]: an instruction-tuned model takes one file of instructions")
    fields = Fields(*(data[name] for name in INSTRUCTION_FIELDS))
    entries, broken = read_entries(path, skip_broken=data["on_error"] == "skip", fields=fields)
    if broken:
        print(f"skipped:        {len(broken):,} broken ({tell_broken(broken)})")
    return entries, Path(path).expanduser()


def _name(source: Path) -> str:
    """The name of a file of instructions, without the suffixes that say its kind."""
    from gptlit.data.instruction_files import SUFFIXES
    from gptlit.data.readers import file_kind

    kind = file_kind(source, SUFFIXES)
    assert kind is not None  # it has been read
    return source.name[: -len(kind.suffix + kind.packing)]


def _test_split(ckpt: Path) -> tuple[list[Any], list[Path]]:
    """The entries that the checkpoint's run has kept for the test, and the files of its data that
    are the user's own.

    Raises:
        UserError: the entries are not known, or are no longer those of the training.
    """
    from gptlit.inference.checkpoint import read_checkpoint

    if ckpt.parent.name != "checkpoints":
        raise UserError(
            "the checkpoint lies in no run folder, so its test split is not known: give data=FILE"
            " with instructions"
        )
    run = ckpt.parent.parent
    module = build_data(read_run_config(run, "instruction"))
    files = (module.path, *module.own_paths.values())
    sources = [Path(file).expanduser() for file in files if file]
    if absent := [source for source in sources if not source.exists()]:
        raise UserError(
            f"the run {run} was trained on {absent[0]}, which is not there: put it back, or run"
            " this command in the folder of the training; data=FILE has all entries of a file"
            " answered, whatever the run was trained on"
        )
    module.prepare_data()
    module.setup("test")
    try:
        module.load_state_dict(read_checkpoint(ckpt).get(type(module).__qualname__, {}))
    except UserError as error:
        raise UserError(
            f"the data of {run}, {module.source}, have changed since it was trained, so the test"
            " split may hold what it has seen: undo that, or give data=FILE, whose entries are"
            " answered whatever the run was trained on"
        ) from error
    if not module.splits["test"]:
        raise UserError(f"the run {run} has no test split: give data=FILE with instructions")
    return module.splits["test"], sources


def _judge(
    answered: Sequence[dict[str, Any]], settings: JudgeSettings, answers: Path, result: Path
) -> None:
    from gptlit.evaluation.judge import judge_answers
    from gptlit.evaluation.judge_report import plot_scores, print_report

    report = judge_answers(answered, settings, result, answers_path=answers, show_progress=True)
    print_report(report)
    plot_scores(report, result.with_suffix(".png"))
    print(f"scores:         {result}\nhistogram:      {result.with_suffix('.png')}")
