"""python generate.py: continue text, or answer instructions, with a trained model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli import app, schema
from gptlit.cli.checking import check
from gptlit.cli.completions import check_output, complete_file, read_prompts
from gptlit.cli.conversation import typed
from gptlit.cli.entry import large_imports
from gptlit.cli.output import output_file
from gptlit.errors import UserError, visible
from gptlit.inference.lookup import check_ckpt

if TYPE_CHECKING:
    from gptlit.inference.api import LanguageModel


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    free_text = ("prompt", "input", "system", "ckpt", "weights.path", "prompts", "output")
    app.run(
        "generate",
        check_config,
        generate,
        free_text=free_text,
        text_lists=("stop",),
        short={"task": "task.name"},
    )


def check_config(config: dict[str, Any]) -> None:
    """Check types and ranges, and that the options go together."""
    check(config, schema.Generate)
    schema.check_weights(config["weights"])
    if config["prompt"] is not None and config["prompts"] is not None:
        raise UserError("give either prompt=... or prompts=FILE, not both")
    if config["prompts"] is not None:
        config["output"] = str(output_file(config["output"]))


def generate(config: dict[str, Any], _folder: Path) -> None:
    """One prompt, a file of prompts, or a conversation."""
    prompts = read_prompts(config["prompts"]) if config["prompts"] else []
    task, outputs = config["task"]["name"], config["output_root"]
    checkpoint = check_ckpt(config["ckpt"], task, outputs, config["weights"])
    if prompts:
        check_output(config, checkpoint)
    model = _load(config)
    options = {
        "input": config["input"] or "",
        "system": config["system"] or "",
        "max_new_tokens": config["max_new_tokens"],
        "temperature": config["temperature"],
        "top_k": config["top_k"],
        "top_p": config["top_p"],
        "stop": [config["stop"]] if isinstance(config["stop"], str) else config["stop"] or [],
    }
    asked = prompts or ([] if config["prompt"] is None else [config["prompt"]])
    for line in (*without_effect(config), *cut_prompts(model, asked, options)):
        print(f"warning: {line}", file=sys.stderr)
    if prompts:
        complete_file(model, prompts, config, options, checkpoint)
    elif config["prompt"] is not None:
        for sample in range(config["num_samples"]):
            if sample:
                print("-" * 20)
            _write(model, config["prompt"], options, seed=config["seed"] + sample)
    else:
        _converse(model, config, options)


def _load(config: dict[str, Any]) -> "LanguageModel":
    """Load the model, and check that it can do what is asked."""
    with large_imports():
        from gptlit.inference.api import LanguageModel, load

    model = load(
        config["ckpt"],
        device=config["device"]["name"],
        precision=config["precision"]["name"],
        task=config["task"]["name"],
        outputs=config["output_root"],
        weights=config["weights"],
    )
    if not isinstance(model, LanguageModel):
        given = f"ckpt={config['ckpt']}" if config["ckpt"] else ""
        raise UserError(
            f"{given or 'the newest run'} is a classifier, which writes no text: use"
            f" python classify.py {given}".rstrip()
        )
    if model.trained.prompt_format is not None:
        return model
    if config["input"] is not None:
        raise UserError(
            "input=... is what an instruction is about, but this model continues text: give all of"
            " it as prompt=..."
        )
    for key, given in (("history=true", config["history"]), ("system=...", config["system"])):
        if given:
            raise UserError(
                f"{key} is for models that answer instructions, but this one continues text"
            )
    return model


def without_effect(config: dict[str, Any]) -> list[str]:
    """Lines about given options that have no effect together with the others."""
    lines = []
    if config["history"] and not (config["prompt"] is config["prompts"] is None):
        lines.append(
            "history=true has no effect on prompt=... and prompts=FILE: it is for what you type"
        )
    off = {"top_k": 0, "top_p": 1.0, "num_samples": 1}
    if config["prompt"] is None and config["prompts"] is None and config["num_samples"] > 1:
        lines.append("num_samples has no effect where prompts are asked for: each gets one answer")
        del off["num_samples"]
    idle = [f"{name}={config[name]}" for name in off if config[name] != off[name]]
    if config["temperature"] == 0 and idle:
        what = "always the same text, of the likeliest tokens; give temperature=0.8, say"
        lines.append(f"{', '.join(idle)}: temperature=0 gives {what}")
    return lines


def cut_prompts(model: "LanguageModel", prompts: list[str], options: dict[str, Any]) -> list[str]:
    """A line about prompts of which the model sees only the end, if there are any."""
    given = {"input": options["input"], "system": options["system"]}
    return model.told_of_cut([model.wrap_prompt(prompt, **given) for prompt in prompts])


def _write(model: "LanguageModel", prompt: str, options: dict[str, Any], seed: int) -> str:
    """Print the prompt and its continuation, or only the answer, while the model writes it:
    unchanged to a file, but to a terminal without characters that would be commands to it.

    Returns:
        what the model wrote.
    """
    shown = visible if sys.stdout.isatty() else str
    if model.trained.prompt_format is None:
        print(shown(prompt), end="", flush=True)
    written = ""
    for text in model.stream(prompt, **options, seed=seed):
        print(shown(text), end="", flush=True)
        written += text
    print()
    return written


def _converse(model: "LanguageModel", config: dict[str, Any], options: dict[str, Any]) -> None:
    form = model.trained.prompt_format
    what = "a text to continue" if form is None else "an instruction"
    history: list[tuple[str, ...]] = []
    for asked, prompt in enumerate(typed(f"Type {what}, or quit.")):
        given = {**options, "history": history}
        answer = _write(model, prompt, given, seed=config["seed"] + asked)
        if config["history"] and form is not None:
            # A suffix of nothing but white space does not end an answer, so it may be part of it.
            history.append((prompt, answer.removesuffix(form.response_suffix), options["input"]))
