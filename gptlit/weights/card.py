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
    ending: str | None = None,
) -> str:
    """README.md, with the front matter that model hubs read.

    Args:
        model: the exported model.
        name: its title.
        origin: what was exported: a checkpoint, or a published model.
        tokenizer: name of its tokenizer.
        summary: the training run's `summary.json`, if there is one.
        labels: the classes of a classifier.
        ending: for a model that answers instructions, the text that ends each answer before
            end-of-text, perhaps empty; None for any other model.
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
    if ending is not None:
        what = "language model, trained to answer instructions,"
    parts = [
        f"---\nlibrary_name: transformers\npipeline_tag: {purpose}\ntags: [gpt2, gptlit]\n---",
        f"# {name}",
        f"A {what} of GPT-2's architecture, exported by gptlit from `{origin}`.",
        _table(shape),
        "## Training",
        _training(summary) if summary else "No training summary came with the weights.",
        "## Use",
        _answers(ending, cfg.context_length) if ending is not None else _use(bool(labels)),
    ]
    return "\n\n".join(parts) + "\n"


def _training(summary: Mapping[str, Any]) -> str:
    keys = ("task", "model", "device", "precision", "seed", "steps", "tokens", "seconds")
    facts = {key: summary[key] for key in keys if key in summary}
    facts["seed"] = str(facts.get("seed", ""))  # so that it gets no thousands separators
    facts["tokens per second"] = summary.get("tokens_per_second")
    facts |= summary.get("metrics", {})
    facts |= {f"{name} version": value for name, value in summary.get("versions", {}).items()}
    facts["git commit"] = summary.get("git_commit")
    return _table({name: _number(value) for name, value in facts.items() if value is not None})


def _use(classifies: bool) -> str:
    note = ""
    if classifies:
        call = 'classify = pipeline("text-classification", model="THIS_FOLDER", truncation=True)'
        call += '\nprint(classify("Some text"))'
        note = "\n\nAn empty text has no last token: leave it out."
    else:
        call = 'write = pipeline("text-generation", model="THIS_FOLDER")'
        call += '\nprint(write("Once upon a time", max_new_tokens=50)[0]["generated_text"])'
    return f"```python\nfrom transformers import pipeline\n\n{call}\n```{note}"


def _answers(ending: str, context_length: int) -> str:
    code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
messages = [{{"role": "user", "content": "Rewrite the sentence in passive voice.",
             "input": "The chef cooks the meal."}}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
ids = model.generate(**prompt, max_new_tokens={min(256, context_length // 2)}, do_sample=False)
print(tokenizer.decode(ids[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))"""
    note = (
        "`input` is what the instruction is about; leave it out where there is nothing. A message"
        " of the role `system` is put before the instruction. The model was trained on one question"
        " at a time."
    )
    if ending:
        note += f" Its answers end with {ending!r}: cut that off."
    return f"```python\n{code}\n```\n\n{note}"


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
