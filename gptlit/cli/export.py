"""python scripts/export.py: hand a trained model to other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli import app, schema
from gptlit.cli.checking import check
from gptlit.cli.entry import large_imports
from gptlit.errors import UserError
from gptlit.files import read_object
from gptlit.inference.lookup import check_ckpt

if TYPE_CHECKING:
    from gptlit.inference.trained import TrainedModel
    from gptlit.weights.classes import Classes


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    free_text = ("ckpt", "out", "weights.path")
    app.run("export", check_config, export, free_text=free_text, short={"task": "task.name"})


def check_config(config: dict[str, Any]) -> None:
    """Check types and choices, and that nothing would be overwritten."""
    check(config, schema.Export)
    schema.check_weights(config["weights"])
    if Path(config["out"]).expanduser().exists():
        raise UserError(f"out={config['out']} exists: delete it, or choose another name")


def export(config: dict[str, Any], _folder: Path) -> None:
    """Write the folder or file, and print how to use it."""
    place = (config["ckpt"], config["task"]["name"], config["output_root"], config["weights"])
    check_ckpt(*place)
    with large_imports():
        from gptlit.inference.checkpoint import open_trained
        from gptlit.model import merge_lora
        from gptlit.tokenizer import END_OF_TEXT, get_tokenizer
        from gptlit.weights.card import model_card
        from gptlit.weights.export import export_huggingface, export_safetensors
        from gptlit.weights.hf_tokenizer import tokenizer_files

    out = Path(config["out"]).expanduser()
    trained, origin = open_trained(*place)
    tokenizer, model = get_tokenizer(trained.hparams["tokenizer"]), merge_lora(trained.model)
    classes = _classes(trained, origin, config["format"])
    prompt = trained.prompt_format
    fields = prompt.to_dict() if prompt else None
    if config["format"] == "safetensors":
        export_safetensors(model, tokenizer.name, out, fields)
        print(f"{out}: safetensors, to be used with ckpt={out} or weights.path={out}")
        return
    texts = tokenizer_files(
        [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)],
        END_OF_TEXT,
        model.cfg.context_length,
        pads=classes is not None,
        chat_template=prompt.to_chat_template() if prompt else None,
    )
    texts["README.md"] = model_card(
        model,
        out.name,
        origin,
        tokenizer.name,
        _summary_of(Path(origin)),
        classes.labels if classes else (),
        prompt.response_suffix if prompt else None,
    )
    export_huggingface(model, tokenizer.name, out, tokenizer.eot_id, texts, classes, fields)
    opens = "GPT2ForSequenceClassification" if classes else "GPT2LMHeadModel"
    print(f"{out}: open it with transformers' {opens}.from_pretrained({str(out)!r})")
    if prompt:
        readme = out / "README.md"
        print(f"its prompt format, {prompt.name}, is the tokenizer's chat template: see {readme}")


def _classes(trained: "TrainedModel", origin: str, form: str) -> "Classes | None":
    """The classes of a classifier that can be exported, None for a language model."""
    from gptlit.weights.classes import Classes

    classifier = trained.classifier
    if classifier is None:
        return None
    if form != "huggingface":
        raise UserError(
            f"format={form} is for language models, and {origin} is a classifier: use"
            " format=huggingface"
        )
    pool, causal = classifier.pool, classifier.causal
    if pool != "last" or not causal:
        raise UserError(
            f"{origin} was trained with task.pool={pool} task.causal={str(causal).lower()}, and"
            " transformers' GPT2ForSequenceClassification is for task.pool=last task.causal=true"
            " alone: train it so, or use python classify.py"
        )
    return Classes(list(trained.settings["labels"]), classifier.head.weight.detach())


def _summary_of(checkpoint: Path) -> dict[str, Any] | None:
    """The training summary of the run that a checkpoint lies in."""
    if checkpoint.parent.name != "checkpoints":
        return None
    path = checkpoint.parent.parent / "summary.json"
    if not path.is_file():
        return None
    summary = read_object(path)
    nodes = ("metrics", "versions")
    if summary is None or not all(isinstance(summary.get(node, {}), dict) for node in nodes):
        raise UserError(f"{path} is damaged: repair the file, or move it elsewhere")
    return summary
