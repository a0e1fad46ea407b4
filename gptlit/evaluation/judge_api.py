"""Ask a judge, a language model behind a server: its settings, requests, and what may go wrong."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gptlit.download import retry_after_s
from gptlit.errors import UserError

if TYPE_CHECKING:
    import requests

BACKOFF_S = 1.0
"""Seconds before the first retry; doubles with each."""
MAX_BACKOFF_S = 60.0
MAX_WAIT_S = 600.0
"""A server that asks to wait longer is not waited for."""
OPTIONAL = ("temperature", "seed")
"""Settings that some models refuse."""
MAX_TEXT = 200
"""Characters of a server's text that are shown."""


@dataclass(frozen=True)
class JudgeSettings:
    """An option of `conf/judge`, where the values are set and explained."""

    name: str
    """The protocol: "ollama" or "openai"."""
    base_url: str
    model: str
    prompt: str
    """With {instruction}, {input}, {output} and {response} where these go."""
    reminder: str
    """Added below the prompt if the first reply has no score."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; None: no key is sent."""
    seed: int | None = 123
    temperature: float | None = 0
    num_ctx: int | None = None
    """Tokens that the judge can see; Ollama only."""
    concurrency: int = 2
    """Questions at the same time."""
    retries: int = 3
    """Attempts after the first."""
    timeout_s: float = 120.0
    """Seconds to wait for a connection, and for the next byte of a reply."""


class JudgeError(Exception):
    """A question that got no reply.

    Args:
        reason: what went wrong, in words for the user.
        retry: the same question may work later.
        fatal: other questions will fare no better.
        after_s: seconds that the server asks to wait before a retry.
    """

    def __init__(
        self, reason: str, *, retry: bool = False, fatal: bool = False, after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.retry = retry
        self.fatal = fatal
        self.after_s = after_s


class Judge(ABC):
    """A server to ask; several threads may ask at once.

    Its key is only in the header of requests: no message, file or log shows it.
    """

    path: str
    example: str
    """A typical `base_url`."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        # A password in the URL is not shown either.
        scheme, slashes, rest = settings.base_url.rstrip("/").rpartition("://")
        self.shown_url = scheme + slashes + rest.rpartition("@")[2]
        host = _host(settings.base_url)
        if host is None:
            raise UserError(
                f"judge.base_url={self.shown_url} is no URL of a server; give one such as"
                f" {self.example}"
            )
        self.url = settings.base_url.rstrip("/") + self.path
        if "{response}" not in settings.prompt:
            raise UserError("judge.prompt has no {response}, where the answer to judge goes")
        self._key = _key(settings.api_key_env)
        self._was_reached = False
        # A server on this machine is not behind a proxy, whatever the environment says.
        self._proxies = {"no_proxy": host} if host in ("localhost", "127.0.0.1", "::1") else None

    @property
    @abstractmethod
    def cure(self) -> str:
        """What to do if no server answers."""

    @abstractmethod
    def body(self, prompt: str) -> dict[str, Any]:
        """The JSON that is posted to ask a prompt."""

    @abstractmethod
    def reply(self, response: requests.Response) -> str:
        """The judge's reply as text.

        Raises:
            JudgeError: the judge failed.
            ValueError, LookupError, TypeError, AttributeError: this is not the protocol's JSON.
        """

    def http_error(self, code: int, text: str, after_s: float) -> JudgeError:
        """What an answer other than 200 means."""
        if code in (401, 403):
            variable = self.settings.api_key_env
            key = f"the key in {variable}" if variable else "a request without a key"
            return JudgeError(f"the judge at {self.shown_url} refuses {key}: {text}", fatal=True)
        if code == 404 or 300 <= code < 400:
            return JudgeError(
                f"nothing to ask at {self.shown_url}{self.path}: {text}; check judge.base_url,"
                f" such as {self.example}, and judge.model",
                fatal=True,
            )
        refused = (f"judge.{name}=null" for name in OPTIONAL if code == 400 and name in text)
        cures = "".join(f"; {cure} leaves that to the server" for cure in refused)
        text = f"the judge at {self.shown_url} answers {text}{cures}"
        if after_s > MAX_WAIT_S:
            return JudgeError(f"{text}; it asks to wait {after_s:,.0f} s", fatal=True)
        retry, full = code in (408, 429) or code >= 500, code == 429
        return JudgeError(text, retry=retry, fatal=full, after_s=after_s)

    def ask(self, prompt: str, stopped: Event) -> str:
        """The judge's reply to a prompt. After an error that may pass the question is asked again,
        after a longer wait each time.

        Args:
            prompt: the question.
            stopped: set when nobody waits for the reply any more.

        Raises:
            JudgeError: there is no reply, and no use in trying further.
        """
        failures = 0
        while True:
            try:
                return self._attempt(prompt)
            except JudgeError as error:
                failures += 1
                if not error.retry:
                    raise
                if failures > self.settings.retries:
                    reason = f"{error} (attempts: {failures})"
                    raise JudgeError(reason, retry=True, fatal=error.fatal) from error
                backoff_s = min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S)
                if stopped.wait(max(error.after_s, backoff_s)):
                    raise

    def shown(self, text: str) -> str:
        """A text of the server on one line, cut if it is long, without the key."""
        text = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"

    def _attempt(self, prompt: str) -> str:
        import requests

        try:
            with requests.post(
                self.url,
                data=json.dumps(self.body(prompt)),
                headers={"Content-Type": "application/json"},
                auth=self._sign if self._key else None,
                stream=True,
                timeout=self.settings.timeout_s,
                allow_redirects=False,  # the key goes nowhere else
                proxies=self._proxies,
            ) as response:
                self._was_reached = True
                if response.status_code != 200:
                    text = f"HTTP {response.status_code}: {self._error_text(response)}"
                    raise self.http_error(response.status_code, text, retry_after_s(response))
                return self.reply(response)
        except requests.RequestException as error:
            raise self._network_error(error) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = f"the judge at {self.shown_url} sent no JSON of its protocol"
            raise JudgeError(reason, retry=True) from error

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key; passed as `auth`, it is not replaced from .netrc, as a header would be."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _error_text(self, response: requests.Response) -> str:
        """What the server says about an error: the message in its JSON, or else the reason in the
        status line. Some servers send the message without an `error` around it."""
        import requests

        with suppress(requests.RequestException, ValueError, AttributeError, RecursionError):
            content = json.loads(response.content)
            return self._message(content.get("error", content))
        return self.shown(str(response.reason))

    def _message(self, error: Any) -> str:
        """The text of an error of either protocol: a string, or an object with a message."""
        return self.shown(str(error.get("message", error) if isinstance(error, dict) else error))

    def failure(self, error: Any) -> JudgeError:
        """An error that came in place of a reply, or in the middle of one."""
        return JudgeError(
            f"the judge at {self.shown_url} fails: {self._message(error)}", retry=True
        )

    def _network_error(self, error: requests.RequestException) -> JudgeError:
        import requests
        from urllib3.exceptions import NewConnectionError, ReadTimeoutError

        causes = _causes(error)
        if any(isinstance(cause, requests.Timeout | ReadTimeoutError) for cause in causes):
            reason = f"no answer from {self.shown_url} for {self.settings.timeout_s:g} s"
            return JudgeError(reason, retry=True)
        told = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        why = self.shown(told[-1]) if told else "no connection"
        if isinstance(error, requests.exceptions.ProxyError):
            reason = (
                f"cannot reach {self.shown_url} through the proxy in HTTP_PROXY, HTTPS_PROXY or"
                f" ALL_PROXY ({why}): unset it, or name the server's host in NO_PROXY"
            )
            return JudgeError(reason, retry=self._was_reached, fatal=True)
        if any(isinstance(cause, NewConnectionError) for cause in causes):
            # A server that was reached before may come back; another one is not waited for.
            reason = f"no judge answers at {self.shown_url} ({why}): {self.cure}"
            return JudgeError(reason, retry=self._was_reached, fatal=True)
        if isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL):
            return JudgeError(f"cannot connect to {self.shown_url}: {why}", fatal=True)
        return JudgeError(f"{self.shown_url} broke off", retry=True)


def _host(url: str) -> str | None:
    """The host that an http(s) URL names; None if it is no such URL, or names none."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def _key(variable: str | None) -> str:
    """The key in an environment variable; never part of a message."""
    if not variable:
        return ""
    if not re.fullmatch("[A-Z][A-Z0-9_]*", variable):  # not shown: it may be a key
        raise UserError(
            "judge.api_key_env must be the name of an environment variable in capitals, such as"
            " OPENAI_API_KEY, and not the key"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"judge.api_key_env={variable}: there is no such environment variable, or it is empty;"
            f" export {variable}=KEY, or give judge.api_key_env=null for a server without keys"
        )
    if not re.fullmatch("[!-~]+", key):
        raise UserError(
            f"the environment variable {variable} holds no key: a key is one ASCII word"
        )
    return key


def _causes(error: BaseException) -> list[BaseException]:
    """An exception and those that led to it: causes, contexts, reasons and arguments."""
    causes: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and one not in causes:
            causes.append(one)
            todo += [*one.args, getattr(one, "reason", None), one.__cause__ or one.__context__]
    return causes
