"""The protocols that judges speak: Ollama's, and OpenAI's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gptlit.evaluation.judge_api import Judge, JudgeError, JudgeSettings

if TYPE_CHECKING:
    import requests

MAX_REPLY = 20_000
"""Characters after which a reply that does not end is cut off."""


class OllamaJudge(Judge):
    """Ollama's own API; the reply comes in pieces, one JSON object a line."""

    path = "/api/chat"
    example = "http://localhost:11434"

    @property
    def cure(self) -> str:
        """How an Ollama server is started."""
        return f"start it with `ollama serve` and `ollama pull {self.settings.model}`"

    def body(self, prompt: str) -> dict[str, Any]:
        given = self.settings
        options = {"seed": given.seed, "temperature": given.temperature, "num_ctx": given.num_ctx}
        return {
            "model": given.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "options": _without_none(options),
        }

    def reply(self, response: requests.Response) -> str:
        reply = thoughts = ""
        for line in response.iter_lines():
            piece = json.loads(line or b"{}")
            if "error" in piece:
                raise self.failure(piece["error"])
            message = piece.get("message", {})
            reply += message.get("content", "")
            thoughts += message.get("thinking") or ""
            if piece.get("done") or len(reply) > MAX_REPLY:
                return reply or _unspoken(thoughts)
        raise JudgeError(f"{self.shown_url} broke off", retry=True)

    def http_error(self, code: int, text: str, after_s: float) -> JudgeError:
        if code == 404 and "model" in text:
            return JudgeError(
                f"{self.shown_url} has no model {self.settings.model} ({text}): fetch it with"
                f" `ollama pull {self.settings.model}`, or choose another with judge.model=NAME",
                fatal=True,
            )
        return super().http_error(code, text, after_s)


class OpenAIJudge(Judge):
    """OpenAI's chat completions, which many servers speak."""

    path = "/chat/completions"
    example = "http://localhost:8000/v1"

    @property
    def cure(self) -> str:
        """What else may be wrong."""
        return "check the network and judge.base_url"

    def body(self, prompt: str) -> dict[str, Any]:
        options = {"seed": self.settings.seed, "temperature": self.settings.temperature}
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.settings.model, "messages": messages, **_without_none(options)}

    def reply(self, response: requests.Response) -> str:
        content = json.loads(response.content)
        if content.get("error"):
            raise self.failure(content["error"])
        message = content["choices"][0]["message"]
        # Both names of the field are in use.
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        return str(message["content"] or _unspoken(thoughts))


_JUDGES: dict[str, type[Judge]] = {"ollama": OllamaJudge, "openai": OpenAIJudge}


def open_judge(settings: JudgeSettings) -> Judge:
    """The judge that the settings describe. Nothing is sent yet.

    Raises:
        UserError: a setting cannot be right, or the key is missing.
    """
    return _JUDGES[settings.name](settings)


def _unspoken(thoughts: str) -> str:
    """The reply of a model whose thoughts left no room for one. Some servers send thoughts apart;
    here they get the form that they have in the replies of other servers."""
    return f"<think>{thoughts}" if thoughts else ""


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
