"""What is said of exceptions, and of what a model writes."""

from gptlit.errors import in_one_line, visible, visible_line, without_login


def test_an_exception_is_said_in_one_line_and_by_its_type_where_it_says_nothing() -> None:
    assert in_one_line(ValueError("two\n  lines")) == "two lines"
    assert in_one_line(ValueError("x" * 300)) == "x" * 200
    assert in_one_line(ValueError()) == "ValueError"
    assert (
        in_one_line(ValueError("no\x1b[2J at http://me:secret@host/a")) == "no␛[2J at http://host/a"
    )


def test_a_password_in_a_url_is_not_told() -> None:
    assert without_login("(https://me:s3:c@ret@host:80/a@b) file:///a/b@c") == (
        "(https://host:80/a@b) file:///a/b@c"
    )


def test_what_would_be_a_command_to_a_terminal_is_seen() -> None:
    assert visible("one\ttwo\r\nthree é 語 \u2028") == "one\ttwo\nthree é 語 \u2028"
    assert visible("\x1b[2J\x07\x0e\x00\x7f\x9b3m") == "␛[2J␇␎␀␡\ufffd3m"
    assert visible_line("one\r\n two\x1b[31m") == "one two␛[31m"
