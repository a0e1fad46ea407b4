"""The model card of an exported model: what it is, how it was trained, how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from gptlit.model import GPTModel


def model_card(
    model: GPTModel,
    name: str,
    origin: str,
    tokenizer: str,
    summary: Mapping[str, Any] | None,
    labels: Sequence[str] = (),
) -> str:
    """README.md, with the front matter that model hubs read.

    Args:
        model: the exported model.
        name: its title.
        origin: what was exported: a checkpoint, or a published model.
        tokenizer: name of its tokenizer; "gpt2" is exported with it.
        summary: the training run's `summary.json`, if there is one.
        labels: the classes of a classifier.
    """
    cfg = model.cfg
    shape = {
        "parameters": f"{model.num_parameters():,}",
        "layers": cfg.n_layers,
        "width": cfg.emb_dim,
        "heads": cfg.n_heads,
        "context": f"{cfg.context_length:,} tokens",
        "vocabulary": f"{cfg.vocab_size:,} ids ({tokenizer})",
    }
    what, purpose = "language model", "text-generation"
    if labels:
        what, purpose = "text classifier", "text-classification"
        shape["classes"] = ", ".join(labels)
    parts = [
        f"---\nlibrary_name: transformers\npipeline_tag: {purpose}\ntags: [gpt2, gptlit]\n---",
        f"# {name}",
        f"A {what} of GPT-2's architecture, exported by gptlit from `{origin}`.",
        _table(shape),
        "## Training",
        _training(summary) if summary else "No training summary came with the weights.",
        "## Use",
        _use(tokenizer, bool(labels)),
    ]
    return "\n\n".join(parts) + "\n"


def _training(summary: Mapping[str, Any]) -> str:
    keys = ("task", "model", "device", "precision", "seed", "steps", "tokens", "seconds")
    facts = {key: summary[key] for key in keys if key in summary}
    facts["seed"] = str(facts.get("seed", ""))  # a name, not a quantity
    facts["tokens per second"] = summary.get("tokens_per_second")
    facts |= summary.get("metrics", {})
    facts |= {f"{name} version": value for name, value in summary.get("versions", {}).items()}
    facts["git commit"] = summary.get("git_commit")
    return _table({name: _number(value) for name, value in facts.items() if value is not None})


def _use(tokenizer: str, classifies: bool) -> str:
    if classifies:
        network, does = "GPT2ForSequenceClassification", "classifies a text"
        call = 'classify = pipeline("text-classification", model="THIS_FOLDER", truncation=True)'
        call += '\nprint(classify("Some text"))'
        command = 'python classify.py ckpt=THIS_FOLDER text="..."'
    else:
        network, does = "GPT2LMHeadModel", "writes text"
        call = 'write = pipeline("text-generation", model="THIS_FOLDER")'
        call += '\nprint(write("Once upon a time", max_new_tokens=50)[0]["generated_text"])'
        command = 'python generate.py ckpt=THIS_FOLDER prompt="..."'
    if tokenizer == "gpt2":
        note = "\n\nAn empty text has no last token: leave it out." if classifies else ""
        return f"```python\nfrom transformers import pipeline\n\n{call}\n```{note}"
    return (
        f"The ids are those of gptlit's tokenizer `{tokenizer}`, which `transformers` does not"
        f" have: `{network}.from_pretrained` gives the network, and\n\n"
        f"```sh\n{command}\n```\n\n{does}."
    )


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
