"""python evaluate.py with an instruction-tuned model: its answers, and a judge's scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlit.cli.build import build_data, read_run_config
from gptlit.errors import UserError
from gptlit.evaluation.judge_api import JudgeSettings


def evaluate_answers(config: dict[str, Any], ckpt: Path, model: Any) -> None:
    """Answer the test split of the model's run, or the entries of data=FILE; score the answers by
    their references and, where one is chosen, let a judge score them.

    Args:
        config: of evaluate.py.
        ckpt: the checkpoint file.
        model: the `LanguageModel` in it.
    """
    from gptlit.evaluation.answers import write_json
    from gptlit.evaluation.instruction import ANSWERS, answer_entries

    run = ckpt.parent.parent if ckpt.parent.name == "checkpoints" else None
    entries, name = _entries(config["data"], run)
    default = run / ANSWERS if run and config["data"]["path"] is None else Path(f"{name}-{ANSWERS}")
    path = Path(config["output"]) if config["output"] else default
    settings = {"max_new_tokens": config["max_new_tokens"], "batch_size": config["batch_size"]}
    answered, scores = answer_entries(model, entries, path, ckpt, settings)
    print(f"answers:        {path} ({len(answered):,})")
    for metric, value in scores.items():
        print(f"{metric.removeprefix('test/') + ':':<23} {value:.4g}")
    scored = path.with_name(f"{path.stem}-scores.json")
    write_json(scored, {name.removeprefix("test/"): value for name, value in scores.items()})
    if config["judge"]["name"] != "none":
        _judge(answered, JudgeSettings(**config["judge"]), path)


def _entries(data: dict[str, Any], run: Path | None) -> tuple[list[Any], str]:
    """The entries to answer, and what to call them."""
    from gptlit.data.instruction_files import read_entries, tell_broken

    path = data["path"]
    if path is not None:
        if not isinstance(path, str):
            raise UserError("data=[...]: an instruction-tuned model takes one file of instructions")
        entries, broken = read_entries(path, skip_broken=data["on_error"] == "skip")
        if broken:
            print(f"skipped:        {len(broken):,} broken ({tell_broken(broken)})")
        return entries, Path(path).name.partition(".")[0]
    if run is None:
        raise UserError(
            "the checkpoint lies in no run folder, so its test split is not known: give data=FILE"
            " with instructions"
        )
    module = build_data(read_run_config(run))
    module.prepare_data()
    module.setup("test")
    if not module.splits["test"]:
        raise UserError(f"the run {run} has no test split: give data=FILE with instructions")
    return module.splits["test"], "test"


def _judge(answered: Sequence[dict[str, Any]], settings: JudgeSettings, answers: Path) -> None:
    from gptlit.evaluation.judge import judge_answers
    from gptlit.evaluation.judge_report import plot_scores, print_report

    result = answers.with_name(f"{answers.stem}-judged.json")
    report = judge_answers(answered, settings, result, answers_path=answers, show_progress=True)
    print_report(report)
    plot_scores(report, result.with_suffix(".png"))
    print(f"scores:         {result}\nhistogram:      {result.with_suffix('.png')}")
