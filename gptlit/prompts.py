"""Prompts: how an instruction becomes the text that a model answers, in training and after it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer

_PLACE = re.compile(r"\{(instruction|input|response)\}")
_RESPONSE = "{response}"


@dataclass(frozen=True)
class PromptFormat:
    """A template with places for an entry's parts: {instruction}, {input} and {response}.

    All other text is taken literally, braces too, and so is the text that is put in.

    Raises UserError for a template that has no place for a part, or has it in the wrong order.
    """

    name: str
    """What reports call it."""
    template: str
    """For entries without an input. The text before {response} is the prompt, and the text after it
    ends each response; without {response}, the response follows the template."""
    template_with_input: str | None = None
    """For entries with an input. None: `template` is used, and the input follows the instruction on
    a line of its own unless the template has a place for it."""

    def __post_init__(self) -> None:
        _check("prompt_format.template", self.template, ("instruction",))
        if self.template_with_input is not None:
            key = "prompt_format.template_with_input"
            _check(key, self.template_with_input, ("instruction", "input"))
            ends = [_end(self.template), _end(self.template_with_input)]
            if ends[0] != ends[1]:
                raise UserError(
                    f"prompt_format.template ends responses with {ends[0]!r}, but {key} with"
                    f" {ends[1]!r}; what stands behind {{response}} must be the same in both"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PromptFormat":
        """The format whose fields come from `to_dict` or a config.

        Raises UserError for unknown or missing names and for values that are not text.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(values.keys() - set(known)):
            known_keys = ", ".join(known)
            raise UserError(f"unknown key 'prompt_format.{unknown[0]}'; known are {known_keys}")
        for name in ("name", "template"):
            if not isinstance(values.get(name), str):
                raise UserError(f"prompt_format.{name}={values.get(name)!r}: expected text")
        return cls(**values)

    def to_dict(self) -> dict[str, str | None]:
        """The fields, plain enough for a checkpoint."""
        return asdict(self)

    def format_prompt(self, instruction: str, input: str = "") -> str:
        """Everything that comes before the response."""
        template = self.template
        if input and self.template_with_input is not None:
            template = self.template_with_input
        elif input and "{input}" not in template:
            instruction = f"{instruction}\n{input}"
        parts = {"instruction": instruction, "input": input}
        return _PLACE.sub(lambda place: parts[place[1]], _start(template))

    def format_response(self, response: str) -> str:
        """The response as it follows the prompt, with the text that ends it."""
        return response + self.response_suffix

    def encode_turn(
        self, tokenizer: Tokenizer, instruction: str, response: str, input: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a prompt, and of the response that follows it, with the text that ends it
        and the end-of-text, both (tokens,). In a chat of several turns, one turn follows another.

        The two are tokenized separately, as they are when a model writes the response."""
        asked = tokenizer.encode_to_numpy(self.format_prompt(instruction, input))
        answer = tokenizer.encode_to_numpy(self.format_response(response))
        return asked, np.concatenate([answer, np.array([tokenizer.eot_id], answer.dtype)])

    @property
    def response_suffix(self) -> str:
        """What ends each response, before the end of the text; often nothing."""
        return _end(self.template)

    @property
    def stop(self) -> list[str]:
        """What ends a response, besides the end of the text."""
        return [self.response_suffix] if self.response_suffix.strip() else []

    def to_chat_template(self) -> str:
        """The Jinja template that makes transformers' chats look the same.

        It takes messages whose role is user or assistant, and puts a system message before the
        next user message, with a blank line between them. A user message may have an `input`
        beside its `content`. The text between a user message and the answer is left out at the end
        of a chat, unless `add_generation_prompt` is true.
        """
        with_input = self.template_with_input or self.template
        places = {"instruction": "asked", "input": "message['input']"}
        if "{input}" not in with_input:
            places["instruction"] = "asked ~ '\\n' ~ message['input']"
        return (
            "{%- set system = namespace(text='') -%}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            "{%- set system.text = message['content'] ~ '\\n\\n' -%}"
            "{%- elif message['role'] == 'user' -%}"
            "{%- set asked = system.text ~ message['content'] -%}"
            "{%- if message['input'] -%}"
            + _user_turn(with_input, places)
            + "{%- else -%}"
            + _user_turn(self.template, {"instruction": "asked", "input": "''"})
            + "{%- endif -%}"
            "{%- set system.text = '' -%}"
            "{%- elif message['role'] == 'assistant' -%}"
            f"{{{{- message['content'] ~ {_literal(self.response_suffix)} ~ eos_token -}}}}"
            "{%- else -%}"
            "{{- raise_exception('the roles are system, user and assistant') -}}"
            "{%- endif -%}"
            "{%- endfor -%}"
        )


def with_system(system: str, instruction: str) -> str:
    """The first instruction of a chat, after the system's text, if there is any."""
    return f"{system}\n\n{instruction}" if system else instruction


def _user_turn(template: str, places: Mapping[str, str]) -> str:
    """Jinja that writes a prompt: `places` are the expressions that stand for its parts."""
    start = _start(template)
    end = max(place.end() for place in _PLACE.finditer(start))

    def expression(text: str) -> str:
        parts = enumerate(_PLACE.split(text))
        return " ~ ".join(places[part] if i % 2 else _literal(part) for i, part in parts)

    return (
        f"{{{{- {expression(start[:end])} -}}}}"
        "{%- if add_generation_prompt or not loop.last -%}"
        f"{{{{- {expression(start[end:])} -}}}}"
        "{%- endif -%}"
    )


def _literal(text: str) -> str:
    """A string of Jinja's language, which reads the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _start(template: str) -> str:
    return template.partition(_RESPONSE)[0]


def _end(template: str) -> str:
    return template.partition(_RESPONSE)[2]


def _check(key: str, template: str, needed: tuple[str, ...]) -> None:
    if not isinstance(template, str):
        raise UserError(f"{key}={template!r}: expected text")
    for part in needed:
        if f"{{{part}}}" not in _start(template):
            found = "only behind {response}" if f"{{{part}}}" in template else "none"
            raise UserError(
                f"{key}={template!r}: it needs a place for the {part}, found {found}; write "
                f"{{{part}}} where it goes, before {{response}}"
            )
    if place := _PLACE.search(_end(template)):
        raise UserError(
            f"{key}={template!r}: {place[0]} stands behind {{response}}; only text that ends each "
            "response may stand there"
        )
