"""What is read from a judge's reply, and what is made of the scores."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gptlit.evaluation.judge import fill_prompt, parse_score
from gptlit.evaluation.judge_report import JudgeReport, Verdict, plot_scores, print_report

FORMS = [
    "{}",
    " {}\n",
    "{}.",
    "{}/100",
    "{} / 100",
    "{} out of 100",
    "{}%",
    "**{}**",
    "**{}**/100",
    "[{}]",
    "\n\n{}\n\nThe answer names 1 of 2 colours.",
    "Score: {}",
    "score {}",
    "SCORE = {}",
    "Score:{}/100",
    "**Score:** {}/100.",
    "### Final score: {}",
    "My rating: {}",
    "Overall grade: {} out of 100!",
    "The score is {}.",
    "The answer has 2 faults.\nScore: {}",
    "Score: {}\n\n1. It is short.\n2. It has 3 faults.",
    "{}\nIn sum:\nScore: {}/100",
    "<think>Maybe 20?\nScore: 20</think>\n\n{}",
    "Maybe 20?\nScore: 20\n</think>\n\nScore: {}",
]


@pytest.mark.parametrize("form", FORMS)
@given(score=st.integers(0, 100))
def test_a_score_on_a_line_of_its_own_is_read(form: str, score: int) -> None:
    assert parse_score(form.replace("{}", str(score))) == score


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("score", ["101", "1000", "-5", "85.5", "8,5", "ninety", ""])
def test_what_is_no_integer_from_0_to_100_is_none(form: str, score: str) -> None:
    assert parse_score(form.replace("{}", score)) is None


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I think ninety",
        "I give 3 reasons for a score of 90",
        "I give 3 reasons: it is short. So I score it 90",
        "I would rate this 85/100 for its clarity",
        "8/10",
        "Score: 8/10",
        "Score: 4 of 5",
        "85 90",
        "85-90",
        "8*5",
        "The sum is:\n4\nwhich is right.",
        "Score: 85\nOn second thought:\nScore: 20",
        "85\nScore: 20",
        "Score: 85 (of the 100 that are possible)",
        "٨٥",
        "<think>85",
        "<think>It is short.\nScore: 85\nBut",
        "It is short.\nScore: 85\nBut</think>It is good.",
        "the underscore 85",
    ],
)
def test_other_numbers_are_no_score(reply: str) -> None:
    assert parse_score(reply) is None


@given(st.text())
def test_any_reply_is_a_score_or_none(reply: str) -> None:
    score = parse_score(reply)
    assert score is None or (0 <= score <= 100 and str(score) in reply)


def test_texts_go_where_the_prompt_says_whatever_is_in_them() -> None:
    prompt = '{"a": {}} {instruction}|{input}|{output}|{response}|{response}|{other}|{0}|{{input}}'
    entry = {
        "instruction": "{response}{input}",
        "input": "\\1 {",
        "output": "}{output}%s",
        "model_response": "{instruction}",
    }
    filled = '{"a": {}} {response}{input}|\\1 {|}{output}%s|{instruction}|{instruction}|{other}|{0}'
    assert fill_prompt(prompt, entry) == filled + "|{\\1 {}"
    assert fill_prompt("{input}.", {"instruction": "x"}) == "."


def report(scores: list[int | None], **changes: Any) -> JudgeReport:
    entries = [
        {"instruction": f"do {i}", "output": "", "model_response": f"done {i}", "score": "text"}
        for i in range(len(scores))
    ]
    verdicts = [Verdict(s, "" if s is not None else "no score in the reply: ?") for s in scores]
    return JudgeReport("ollama", "llama3", [{**e, **changes} for e in entries], verdicts)


def test_figures() -> None:
    scores = [0, 9, 10, 89, 90, 99, 100, None, 9]
    found = report(scores).to_dict()
    assert found["mean"] == pytest.approx(406 / 8)
    assert found["median"] == (10 + 89) / 2
    assert (found["scored"], found["unscored"]) == (8, 1)
    assert found["histogram"] == {
        **{"0-9": 3, "10-19": 1, "20-29": 0, "30-39": 0, "40-49": 0},
        **{"50-59": 0, "60-69": 0, "70-79": 0, "80-89": 1, "90-100": 3},
    }
    assert [row["score"] for row in found["scores"]] == scores
    assert found["scores"][7] == {"entry": 7, "score": None, "reason": "no score in the reply: ?"}
    assert [(row["entry"], row["score"]) for row in found["worst"]] == [
        (0, 0),
        (1, 9),
        (8, 9),
        (2, 10),
        (3, 89),
    ]
    assert found["worst"][0]["model_response"] == "done 0"
    json.dumps(found)


def test_without_scores_there_are_no_figures(tmp_path: Path) -> None:
    for scores in ([], [None, None]):
        nothing = report(scores)
        found = nothing.to_dict()
        assert (found["mean"], found["median"], found["scored"]) == (None, None, 0)
        assert found["worst"] == []
        assert "none" in printed(nothing)
        plot_scores(nothing, tmp_path / "scores.png")


def printed(of: JudgeReport, width: int = 100) -> str:
    file = io.StringIO()
    print_report(of, Console(file=file, width=width))
    return file.getvalue()


def test_the_tables_show_texts_as_they_are() -> None:
    text = printed(report([50, 60, None], instruction="[red]A [/] [b", model_response="x " * 500))
    assert "55.0 of 100" in text
    assert "[red]A [/] [b" in text
    assert "no score in the reply" in text
    assert len(text.splitlines()) < 45
    assert "Scores by a[/b] (ollama)" in printed(replace(report([50]), model="a[/b]"))


def test_the_tables_hold_no_commands_to_the_terminal() -> None:
    verdicts = [Verdict(50, ""), Verdict(None, "\x1b[3J")]
    text = printed(replace(report([50, None], instruction="\x1b[2J"), verdicts=verdicts))
    assert "\x1b" not in text and "␛[2J" in text and "␛[3J" in text


def test_many_without_a_score_are_counted() -> None:
    assert "and 95 more" in printed(report([None] * 100))
    assert "and 1 more" in printed(report([None] * 6))
    assert "more" not in printed(report([None] * 5))


def test_the_longest_bar_is_that_of_most_scores() -> None:
    bars = [line.split()[1:-1] for line in printed(report([5, 95, 92, None])).splitlines()]
    assert ["0-9", "│", "█" * 15, "1"] in bars and ["90-100", "│", "█" * 30, "2"] in bars
    assert ["10-19", "│", "0"] in bars


def test_a_text_is_cut_where_a_table_would_grow() -> None:
    fits, cut = "x" * 120, "x" * 119 + "…"
    shown = printed(report([50], instruction=fits, model_response=fits + "x"), width=400)
    assert f" {fits} " in shown and f" {cut} " in shown


def test_the_histogram_has_a_bar_for_each_ten_and_a_line_at_the_mean(tmp_path: Path) -> None:
    with patch("gptlit.evaluation.judge_report.save_figure") as saved:
        plot_scores(report([0, 4, 50, 100, None]), tmp_path / "scores.png")
    axes = saved.call_args.args[0].axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (axes.patches[0].get_center()[0], axes.patches[9].get_center()[0]) == (0, 9)
    # The first bar begins at -0.5 and at a score of 0.
    assert axes.lines[0].get_xdata() == [38.5 / 10 - 0.5] * 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean"]
    assert axes.figure.get_suptitle() == "4 of 5 answers scored by llama3"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("score (0 to 100)", "number of answers")


def test_the_same_scores_draw_the_same_histogram(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_scores(report([10, 50, 90, None]), tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "b.png").read_bytes()
