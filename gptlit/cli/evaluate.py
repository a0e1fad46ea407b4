"""python evaluate.py: how well a trained model predicts a text, tells classes, or answers
instructions."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli import allocator, app, schema
from gptlit.cli.checking import check
from gptlit.cli.entry import large_imports
from gptlit.cli.output import check_unread, output_file
from gptlit.errors import UserError, visible
from gptlit.inference.lookup import check_ckpt
from gptlit.training import reuse

if TYPE_CHECKING:
    from gptlit.evaluation.perplexity import Perplexity


JUDGE_TEXTS = ("prompt", "reminder", "model", "base_url")
"""Keys whose values may hold braces and commas."""


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    allocator.restart_with_tuned_malloc()
    app.run(
        "evaluate",
        check_config,
        evaluate,
        free_text=(
            "ckpt",
            "output",
            "weights.path",
            "data.column",
            "data.text_column",
            "data.label_column",
            *(f"data.{name}" for name in schema.INSTRUCTION_FIELDS),
            *(f"judge.{name}" for name in JUDGE_TEXTS),
        ),
        text_lists=("data", "data.path"),
        short={"data": "data.path", "task": "task.name"},
    )


def check_config(config: dict[str, Any]) -> None:
    """Check types and ranges, and that the result will have a place to be written to."""
    check(config, schema.Evaluate)
    schema.check_weights(config["weights"])
    schema.check_judge(config["judge"])
    if config["judge"]["name"] != "none":
        from gptlit.evaluation.judge_api import JudgeSettings
        from gptlit.evaluation.judge_protocols import open_judge

        open_judge(JudgeSettings(**config["judge"]))  # its URL, prompt and key; nothing is sent
    if config["output"] is not None:
        config["output"] = str(output_file(config["output"]))


def evaluate(config: dict[str, Any], _folder: Path) -> None:
    """Load the model and do what it is for."""
    read = _files(config["data"])
    name, outputs, ckpt = config["task"]["name"], config["output_root"], config["ckpt"]
    checkpoint = check_ckpt(ckpt, name, outputs, config["weights"])
    if checkpoint is not None:
        ckpt = str(checkpoint.resolve())
        run = reuse.trained_config(Path(ckpt).parent.parent)
        if run:  # tells the task sooner than the checkpoint, which is read below
            _check_fits(config, ckpt, run["task"]["name"])
        read.append(Path(ckpt))
    if config["output"] is not None:
        check_unread([Path(config["output"])], read)
    with large_imports():
        from gptlit.device import resolve_device
        from gptlit.inference.api import LanguageModel
        from gptlit.inference.checkpoint import open_trained

    device = resolve_device(config["device"]["name"])
    trained, _ = open_trained(ckpt, name, outputs, config["weights"])
    _check_fits(config, ckpt, trained.name)
    if trained.name == "instruction":
        from gptlit.cli.answers import evaluate_answers

        model = LanguageModel(trained, device, config["precision"]["name"])
        return evaluate_answers(config, Path(ckpt), model)
    if trained.name == "classification":
        from gptlit.cli.labelled import evaluate_labelled
        from gptlit.inference.classifier import Classifier

        precision = "fp32" if config["precision"]["name"] == "auto" else config["precision"]["name"]
        return evaluate_labelled(config, Path(ckpt), Classifier(trained, device, precision))
    # Weights stay in fp32; other formats are for products only, as in training.
    return _evaluate_text(config, ckpt, LanguageModel(trained, device, "fp32"), device)


def _check_fits(config: dict[str, Any], ckpt: str, task: str) -> None:
    """Refuse a model that cannot do what is asked."""
    if task == "classification" and not isinstance(config["data"]["path"], str):
        raise UserError(
            f"ckpt={ckpt} is a classifier: give data=FILE, a table with a text and a label in each"
            " row. What was measured in training is in its summary.json, and texts without labels"
            f" are classified with: python classify.py ckpt={ckpt} input=FILE"
        )
    if task != "instruction" and config["judge"]["name"] != "none":
        raise UserError(
            f"judge={config['judge']['name']} scores answers to instructions, but ckpt={ckpt} is"
            f" of task={task}"
        )
    if task in ("classification", "instruction") and config["stride"] is not None:
        raise UserError(
            f"stride={config['stride']} is for the windows that slide over a text, but ckpt={ckpt}"
            f" is of task={task}: leave it out"
        )
    if task != "instruction" and config["data"]["path"] is None:
        raise UserError("data is not set: give data=TEXT, a file, a folder or a glob")
    if task == "classification":
        from gptlit.cli.labelled import check_table

        check_table(config["data"])


def _files(data: dict[str, Any]) -> list[Path]:
    """The files of data=...; a missing one is reported at once, unless it is one that no language
    model reads as text."""
    path = data["path"]
    if path is None:
        return []
    if _is_no_text(path):
        return [Path(path).expanduser()]
    from gptlit.data.corpus import TextFiles

    return list(TextFiles(path, data["column"]).files)


def _is_no_text(path: str | list[str]) -> bool:
    """Whether it can only be a file of instructions or of labelled texts."""
    return isinstance(path, str) and not {".json", ".tsv"}.isdisjoint(Path(path).suffixes[-2:])


def _evaluate_text(config: dict[str, Any], ckpt: str, loaded: Any, device: str) -> None:
    """Measure, print a table, and write JSON where asked."""
    import torch

    from gptlit.data.corpus import TextFiles
    from gptlit.device import resolve_precision
    from gptlit.evaluation.answers import write_json
    from gptlit.evaluation.perplexity import perplexity, resolve_stride, tokenize_text

    source = TextFiles(config["data"]["path"], config["data"]["column"])
    wanted = config["precision"]["name"]
    precision = "fp32" if wanted == "auto" else resolve_precision(wanted, device)
    stride = resolve_stride(config["stride"], loaded.model.cfg.context_length)
    tokens = tokenize_text(source, loaded.tokenizer, show_progress=True)
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(device, half, enabled=precision != "fp32"):
        result = perplexity(
            loaded.model,
            tokens,
            stride,
            config["batch_size"],
            loaded.tokenizer.token_bytes(),
            show_progress=True,
        )
    print(visible(table(result, text=source.name, model=ckpt, how=f"{device}, {precision}")))
    if config["output"] is not None:
        origin = {
            "ckpt": ckpt,
            "data": config["data"]["path"],
            "tokenizer": loaded.tokenizer.name,
            "device": device,
            "precision": precision,
        }
        write_json(Path(config["output"]), {**asdict(result), **origin})


def table(result: "Perplexity", *, text: str, model: str, how: str) -> str:
    """The result in aligned lines."""
    bits = "unknown" if result.bits_per_byte is None else f"{result.bits_per_byte:.4f}"
    rows = {
        "text": text,
        "model": model,
        "window": f"{result.context_length} tokens, every {result.stride}",
        "loss": f"{result.loss:.4f} nats per token",
        "perplexity": f"{result.perplexity:,.2f}",
        "bits per byte": bits,
        "scored": f"{result.tokens:,} tokens, {result.bytes:,} bytes",
        "time": f"{result.seconds:,.1f} s, {result.tokens_per_second:,.0f} tokens/s ({how})",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
