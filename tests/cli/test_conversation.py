"""Lines that are typed, or come through a pipe."""

import io

import pytest

from gptlit.cli.conversation import typed
from gptlit.errors import UserError


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes, errors: str = "strict") -> None:
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", stdin)


def test_empty_lines_are_passed_over_and_quit_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "é\n\n \t\nb \r\nquit\nc\n".encode())
    assert list(typed("Type.")) == ["é", "b "]
    assert capsys.readouterr().out == "> > > > > "
    pipe(monkeypatch, b"a")
    assert list(typed("Type.")) == ["a"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_is_no_text_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, errors: str) -> None:
    pipe(monkeypatch, b"caf\xe9\n", errors)
    with pytest.raises(UserError, match=r"standard input is not utf-8 text .*; convert it, for"):
        list(typed("Type."))
