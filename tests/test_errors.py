"""What is said of exceptions."""

from gptlit.errors import in_one_line


def test_an_exception_is_said_in_one_line_and_by_its_type_where_it_says_nothing() -> None:
    assert in_one_line(ValueError("two\n  lines")) == "two lines"
    assert in_one_line(ValueError("x" * 300)) == "x" * 200
    assert in_one_line(ValueError()) == "ValueError"
