from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from omegaconf import OmegaConf

from gptlit.errors import UserError
from gptlit.prompts import PromptFormat

CONF = Path(__file__).parents[1] / "conf" / "prompt_format"
NAMES = ["alpaca", "phi3", "plain", "input-first"]
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
EOS = "<|endoftext|>"

FRAGMENTS = ["{instruction}", "{input}", "{response}", "{0}", "{", "}}", "%s", "\\", "'", '"']
FRAGMENTS += ["{{ x }}", "{% if %}", "{#", "\n", "naïve", "😀", "\u2028", "a", " "]
texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join))
asked = texts.filter(bool)


def format_of(name: str) -> PromptFormat:
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    return PromptFormat.from_dict(values)


def chat(prompt: PromptFormat, messages: list[tuple[str, ...]], **given: Any) -> str:
    """What transformers makes of messages, perhaps with inputs, with the format's chat template."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(prompt.to_chat_template())
    turns = [dict(zip(("role", "content", "input"), turn, strict=False)) for turn in messages]
    return template.render(messages=turns, eos_token=EOS, **given)


@pytest.mark.parametrize(
    ("name", "input", "prompt"),
    [
        ("alpaca", "", f"{ALPACA}\n\n### Instruction:\nAdd.\n\n### Response:\n"),
        (
            "alpaca",
            "1, 2",
            f"{ALPACA}\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n",
        ),
        ("phi3", "", "<|user|>\nAdd.\n\n<|assistant|>\n"),
        ("phi3", "1, 2", "<|user|>\nAdd.\n1, 2\n\n<|assistant|>\n"),
        ("plain", "", "Add.\n"),
    ],
)
def test_prompts_are_as_published(name: str, input: str, prompt: str) -> None:
    assert format_of(name).format_prompt("Add.", input) == prompt
    assert format_of(name).format_response("3") == "3"


@pytest.mark.parametrize("name", NAMES)
@settings(derandomize=True, max_examples=50)
@given(instruction=asked, input=texts)
def test_no_text_is_read_as_a_template(name: str, instruction: str, input: str) -> None:
    prompt = format_of(name)
    plain = prompt.format_prompt("\ue000", "\ue001" if input else "")
    expected = plain.replace("\ue000", "\ue002").replace("\ue001", input)
    assert prompt.format_prompt(instruction, input) == expected.replace("\ue002", instruction)


def test_text_behind_the_response_ends_it() -> None:
    prompt = PromptFormat("mine", "Q: {instruction} A: {response}<end>\n")
    assert prompt.format_prompt("Why?") == "Q: Why? A: "
    assert prompt.format_response("So {it} is.") == "So {it} is.<end>\n"
    assert prompt.response_suffix == "<end>\n"


def test_without_a_place_for_the_response_it_follows() -> None:
    prompt = PromptFormat("mine", '{"q": "{instruction}"}\n')
    assert prompt.format_prompt("Why?") == '{"q": "Why?"}\n'
    assert prompt.response_suffix == ""


def test_an_input_without_a_template_follows_the_instruction() -> None:
    assert PromptFormat("mine", "{instruction}\n>").format_prompt("Sum:", "1 2") == "Sum:\n1 2\n>"
    both = PromptFormat("mine", "{input}|{instruction}|")
    assert both.format_prompt("Sum:", "1 2") == "1 2|Sum:|"
    assert both.format_prompt("Sum:") == "|Sum:|"


@pytest.mark.parametrize("name", NAMES)
def test_a_dict_holds_all_of_a_format(name: str) -> None:
    prompt = format_of(name)
    assert PromptFormat.from_dict(prompt.to_dict()) == prompt
    assert all(isinstance(value, str) for value in prompt.to_dict().values())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"name": "x", "template": "Answer:"},
            r"prompt_format\.template='Answer:': it needs a place for the instruction, found none; "
            r"write \{instruction\}",
        ),
        (
            {"name": "x", "template": "{response} {instruction}"},
            r"place for the instruction, found only behind \{response\}",
        ),
        (
            {"name": "x", "template": "{instruction}", "template_with_input": "{instruction}"},
            r"template_with_input='\{instruction\}': it needs a place for the input, found none",
        ),
        (
            {"name": "x", "template": "{instruction} {response} {input}"},
            r"\{input\} stands behind \{response\}",
        ),
        (
            {
                "name": "x",
                "template": "{instruction}{response}.",
                "template_with_input": "{instruction}{input}{response}!",
            },
            r"ends responses with '\.', but .*template_with_input with '!'",
        ),
        ({"name": "x"}, r"prompt_format\.template=None: expected text"),
        ({"name": "x", "template": 3}, r"prompt_format\.template=3: expected text"),
        (
            {"name": "x", "template": "{instruction}", "template_with_input": 3},
            r"prompt_format\.template_with_input=3: expected text",
        ),
        ({"name": "x", "templat": ""}, r"unknown key 'prompt_format\.templat'; known are name, te"),
    ],
)
def test_mistakes_in_a_format_are_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        PromptFormat.from_dict(values)
    assert "\n" not in str(raised.value)


FORMATS = [
    *map(format_of, NAMES),
    PromptFormat("no place for the input", "Q: {instruction}\nA: {response}"),
    PromptFormat("twice", "{input}a {instruction}\tb\n {instruction} c{input} {response} \n<e>"),
    PromptFormat("quotes", "'\"\\ {{x}} {% y %} 😀\n{instruction}\n{# #}"),
]


@pytest.mark.parametrize("prompt", FORMATS, ids=lambda prompt: prompt.name)
@settings(derandomize=True, max_examples=30)
@given(question=asked, answer=texts)
def test_transformers_chats_look_the_same(prompt: PromptFormat, question: str, answer: str) -> None:
    one = prompt.format_prompt(question)
    whole = one + prompt.format_response(answer) + EOS
    assert chat(prompt, [("user", question)], add_generation_prompt=True) == one
    assert chat(prompt, [("user", question), ("assistant", answer)]) == whole
    turns = [("user", question), ("assistant", answer), ("user", question)]
    assert chat(prompt, turns, add_generation_prompt=True) == whole + one


@pytest.mark.parametrize("prompt", FORMATS, ids=lambda prompt: prompt.name)
@settings(derandomize=True, max_examples=30)
@given(question=asked, input=texts, answer=texts)
def test_a_user_message_may_have_an_input(
    prompt: PromptFormat, question: str, input: str, answer: str
) -> None:
    one = prompt.format_prompt(question, input)
    turns = [("user", question, input)]
    assert chat(prompt, turns, add_generation_prompt=True) == one
    whole = one + prompt.format_response(answer) + EOS
    assert chat(prompt, [*turns, ("assistant", answer)]) == whole
    prompted = prompt.format_prompt(f"Be kind.\n\n{question}", input)
    assert chat(prompt, [("system", "Be kind."), *turns], add_generation_prompt=True) == prompted


def test_a_chats_system_message_stands_before_the_next_question() -> None:
    prompt = format_of("phi3")
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    said = prompt.format_prompt("Be kind.\n\nHi") + "Hello" + EOS + prompt.format_prompt("Bye")
    assert chat(prompt, turns, add_generation_prompt=True) == said
    assert chat(prompt, turns) == said.removesuffix("\n\n<|assistant|>\n")


def test_transformers_itself_takes_the_chat_template() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({EOS: 0}, unk_token=EOS))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=EOS)
    prompt = format_of("alpaca")
    fast.chat_template = prompt.to_chat_template()
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    told = fast.apply_chat_template(turns, tokenize=False)
    assert told == prompt.format_prompt("Hi") + "Hello" + EOS
