"""An exported instruction model opens in transformers with its prompt format as the chat template,
and answers there as it does here; and ours takes it back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import gptlit
from gptlit import LanguageModel
from gptlit.cli.export import export
from gptlit.data.entry import Entry
from gptlit.data.instruction_batches import TokenizedEntries
from gptlit.inference.generation import Sampling, stream_ids
from gptlit.options import conf_dir, read_option
from gptlit.tasks.instruction import InstructionTask
from gptlit.tokenizer import get_tokenizer
from gptlit.weights.export import export_safetensors
from tests.inference.classifiers import save

torch.set_num_threads(1)

CONTEXT = 800
CUSTOM = {
    "name": "custom",
    "template": "{{ '<Q>' }}\t{instruction} \"\\n\" <A> {response}<end>\n",
    "template_with_input": None,
}
LORA = {"rank": 2, "alpha": 8.0, "targets": ["q", "fc"]}
CASES: dict[str, tuple[str, str, str]] = {
    "alpaca": ("alpaca", "gpt2", "all"),
    "alpaca, bytes": ("alpaca", "byte", "lora"),
    "phi3": ("phi3", "gpt2", "lora"),
    "plain": ("plain", "byte", "all"),
    "input-first": ("input-first", "byte", "all"),
    "custom": ("custom", "gpt2", "all"),
}
"""Prompt format, tokenizer, what was trained."""
ENTRIES = [
    ("Name the author.", ""),
    ("Reverse:", "lamp"),
    ('Say "it" in {2} words\\n\n', "  na\u00efve \N{GRINNING FACE}\n{instruction}"),
    ("A much longer instruction than the others are, with {{ braces }} and {% more %}.", "x"),
]


def make_task(form: str, tokenizer: str, trainable: str) -> InstructionTask:
    """A task far from its initial values, whose answers end somewhere."""
    torch.manual_seed(4)
    prompt: Any = CUSTOM
    if form != "custom":
        prompt = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"prompt_format/{form}.yaml"))
    task = InstructionTask(
        model={
            "vocab_size": get_tokenizer(tokenizer).vocab_size,
            "context_length": CONTEXT,
            "emb_dim": 32,
            "n_heads": 4,
            "n_layers": 2,
        },
        tokenizer=tokenizer,
        settings={"prompt": prompt, "trainable": trainable, "lora": LORA},
    )
    eot = get_tokenizer(tokenizer).eot_id
    with torch.no_grad():
        for p in task.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        ending = task.model.tok_emb.weight[eot].mul_(4)
        task.model.pos_emb.weight[::13] += 5 * ending / ending.norm()
    return task.eval()


@pytest.fixture(scope="module", params=CASES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[InstructionTask, Path]:
    """A task, and what it was exported to."""
    folder = tmp_path_factory.mktemp("exported")
    ckpt = save(make_task(*CASES[request.param]), folder / "run" / "checkpoints" / "best.ckpt")
    config: dict[str, Any] = {
        "ckpt": str(ckpt),
        "task": {"name": "instruction"},
        "output_root": "outputs",
        "weights": read_option("weights", "huggingface"),
        "format": "huggingface",
        "out": str(folder / "out"),
    }
    export(config, folder)
    export(config | {"format": "safetensors", "out": str(folder / "out.safetensors")}, folder)
    return make_task(*CASES[request.param]), folder / "out"


def asked(instruction: str, input: str) -> list[dict[str, str]]:
    message = {"role": "user", "content": instruction}
    return [message | ({"input": input} if input else {})]


def test_prompts_are_the_same_token_for_token(pair: tuple[InstructionTask, Path]) -> None:
    task, folder = pair
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = get_tokenizer(task.hparams["tokenizer"])
    assert tokenizer.eos_token_id == ours.eot_id
    for entry in ENTRIES:
        prompt = task.wrap_prompt(*entry)
        given = {"add_generation_prompt": True}
        assert tokenizer.apply_chat_template(asked(*entry), tokenize=False, **given) == prompt
        encoded = tokenizer.apply_chat_template(asked(*entry), return_dict=True, **given)
        assert encoded["input_ids"] == ours.encode(prompt)
    system = [{"role": "system", "content": "Be kind."}, *asked("Say it.", "now")]
    kind = task.wrap_prompt("Be kind.\n\nSay it.", "now")
    assert tokenizer.apply_chat_template(system, tokenize=False, **given) == kind


CHAT = [
    ("Be kind.\n\nName the author.", "Jane, or <her> sister"),
    ('Say "it" in {2} words\\n\n', "na\u00efve \N{GRINNING FACE} it"),
    ("Reverse: lamp", "pmal\n"),
]


def test_chats_are_the_same_token_for_token(pair: tuple[InstructionTask, Path]) -> None:
    task, folder = pair
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LanguageModel(task, "cpu", "fp32")
    ours, form = model.tokenizer, task.prompt_format
    messages = [
        {"role": role, "content": content}
        for turn in CHAT
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    messages[0]["content"] = messages[0]["content"].removeprefix("Be kind.\n\n")
    messages.insert(0, {"role": "system", "content": "Be kind."})
    last = Entry(CHAT[-1][0], "", CHAT[-1][1], history=tuple(CHAT[:-1]))
    trained = TokenizedEntries([last], ours, form, CONTEXT, cut=False).ids(0).tolist()
    prompt = model.wrap_prompt(last.instruction, "", last.history, max_new_tokens=9)
    assert trained[: len(prompt)] == prompt
    asked = {"add_generation_prompt": True}
    for ids, chat, given in ((trained, messages, {}), (prompt, messages[:-1], asked)):
        assert tokenizer.apply_chat_template(chat, tokenize=False, **given) == ours.decode(ids)
        theirs = tokenizer.apply_chat_template(chat, return_dict=True, **given)["input_ids"]
        assert theirs.count(ours.eot_id) == ids.count(ours.eot_id) == 2 + (chat is messages)
        # A space that ends a prompt is a token of its own here; there it may be the first of an
        # answer's.
        assert theirs == ids or form.template.partition("{response}")[0].endswith(" ")


def test_greedy_answers_are_the_same_token_for_token(pair: tuple[InstructionTask, Path]) -> None:
    task, folder = pair
    theirs, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    eot = get_tokenizer(task.hparams["tokenizer"]).eot_id
    assert theirs.generation_config.eos_token_id == eot
    ended = 0
    for entry in ENTRIES:
        prompt = tokenizer.apply_chat_template(
            asked(*entry), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        ids = prompt["input_ids"][0].tolist()
        found = theirs.generate(**prompt, max_new_tokens=40, do_sample=False)[0].tolist()
        ours = [token for [token] in stream_ids(task.model, [ids], 40, Sampling())]
        if eot in ours:
            ours = ours[: ours.index(eot) + 1]
            ended += 1
        assert found == ids + ours
    assert ended, "no answer has come to its end"


def test_a_padded_batch_is_answered_the_same(pair: tuple[InstructionTask, Path]) -> None:
    task, folder = pair
    write = pipeline("text-generation", model=str(folder))
    texts = [asked(*entry) for entry in ENTRIES]
    found = write(texts, batch_size=4, do_sample=False, max_new_tokens=40, return_full_text=False)
    ours = LanguageModel(task, "cpu", "fp32")
    suffix = task.prompt_format.response_suffix
    for entry, [answer] in zip(ENTRIES, found, strict=True):
        text = answer["generated_text"]
        if isinstance(text, list):
            text = text[-1]["content"]
        expected = ours.generate(entry[0], input=entry[1], max_new_tokens=40)
        assert text.partition(suffix)[0] == expected if suffix else text == expected


def test_the_card_shows_the_use(
    pair: tuple[InstructionTask, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    task, folder = pair
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(folder))
    exec(code, {})
    [sentence, meal] = "Rewrite the sentence in passive voice.", "The chef cooks the meal."
    printed = capsys.readouterr().out.removesuffix("\n")
    suffix = task.prompt_format.response_suffix
    expected = LanguageModel(task, "cpu", "fp32").generate(sentence, input=meal, max_new_tokens=200)
    assert (printed.partition(suffix)[0] if suffix else printed) == expected
    assert ("cut that off" in card) == bool(suffix)


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_we_take_it_back_with_its_prompt_format(
    pair: tuple[InstructionTask, Path], name: str
) -> None:
    task, folder = pair
    back = gptlit.load(folder.with_name(name), device="cpu", precision="fp32")
    assert isinstance(back, LanguageModel)
    assert back.trained.hparams["settings"]["prompt"] == task.settings["prompt"]
    ours = LanguageModel(task, "cpu", "fp32")
    for instruction, input in ENTRIES:
        given = {"input": input, "max_new_tokens": 20}
        assert back.generate(instruction, **given) == ours.generate(instruction, **given)


def test_a_damaged_prompt_format_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path, task = tmp_path / "a.safetensors", make_task("plain", "byte", "all")
    export_safetensors(task.model, "byte", path, {"name": "x", "template": "y"})
    with pytest.raises(gptlit.UserError, match=r"it needs a place for the instruction"):
        gptlit.load(path, device="cpu")
    ours = {"model": task.hparams["model"], "tokenizer": "byte", "prompt": 3}
    save_file(load_file(path), path, {"format": "pt", "gptlit": json.dumps(ours)})
    assert isinstance(gptlit.load(path, device="cpu"), LanguageModel)
