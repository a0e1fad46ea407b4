"""python evaluate.py: how well a trained model predicts a text."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli import allocator, app, schema
from gptlit.cli.checking import check
from gptlit.errors import UserError

if TYPE_CHECKING:
    from gptlit.evaluation.perplexity import Perplexity


def main() -> None:
    """Entry point of `python evaluate.py` and `gptlit-evaluate`."""
    allocator.restart_with_tuned_malloc()
    app.run(
        "evaluate",
        check_config,
        evaluate,
        free_text=("ckpt", "output", "data.column"),
        text_lists=("data", "data.path"),
        short={"data": "data.path", "task": "task.name"},
    )


def check_config(config: dict[str, Any]) -> None:
    """Check types and ranges, and that the result can be written once it is there."""
    check(config, schema.Evaluate)
    schema.check_weights(config["weights"])
    output = config["output"]
    if output is not None and (Path(output).is_dir() or not Path(output).parent.is_dir()):
        raise UserError(f"output={output}: give a file in a folder that exists")


def evaluate(config: dict[str, Any], _folder: Path) -> None:
    """Measure, print a table, and write JSON where asked."""
    from gptlit.data.corpus import TextFiles

    source = TextFiles(config["data"]["path"], config["data"]["column"])
    import torch

    from gptlit.device import resolve_device, resolve_precision
    from gptlit.evaluation.perplexity import perplexity, resolve_stride, tokenize_text
    from gptlit.inference.api import load
    from gptlit.inference.checkpoint import find_checkpoint

    device = resolve_device(config["device"]["name"])
    precision = resolve_precision(config["precision"]["name"], device)
    task, outputs = config["task"]["name"], config["output_root"]
    ckpt = config["ckpt"] or str(find_checkpoint(None, task, outputs).resolve())
    # Weights stay in fp32; other formats are for products only, as in training.
    loaded = load(ckpt, device=device, precision="fp32", weights=config["weights"])
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
    print(table(result, text=source.name, model=ckpt, how=f"{device}, {precision}"))
    if config["output"] is not None:
        origin = {
            "ckpt": ckpt,
            "data": config["data"]["path"],
            "tokenizer": loaded.tokenizer.name,
            "device": device,
            "precision": precision,
        }
        _write(Path(config["output"]), {**asdict(result), **origin})


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


def _write(output: Path, content: dict[str, Any]) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        raise UserError(
            f"cannot write output={output}: {error.strerror}; choose another file"
        ) from error
