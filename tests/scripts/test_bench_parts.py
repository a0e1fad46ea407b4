"""The parts of scripts/bench.py: turns, figures, clocks, and what is refused before measuring."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import numpy as np
import pytest
import torch
from benchmarks import answers, decode, instruct, report, rounds
from benchmarks.clocked import count_entries
from benchmarks.common import Measurement
from benchmarks.train import Clock
from hypothesis import given
from hypothesis import strategies as st

from gptlit.data.batch import InstructionBatch
from gptlit.data.entry import Entry
from gptlit.data.instruction_batches import InstructionDataset, PackedDataset, TokenizedEntries
from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel
from gptlit.options import read_option
from gptlit.prompts import PromptFormat
from gptlit.tokenizer import get_tokenizer
from gptlit.weights.export import export_huggingface


def seconds(
    *values: float, precision: str = "fp32", peak: float | None = None
) -> list[Measurement]:
    flops = None if peak is None else 1.0
    return [Measurement(v, "s", precision, flops=flops, peak_flops=peak) for v in values]


# ---- turns ----


def measuring(events: dict[int, Callable[[], None]]) -> Callable[[str], Measurement]:
    """Measures 1, 2, 3, ...; something happens at some of them."""
    calls: list[str] = []

    def measure(name: str) -> Measurement:
        calls.append(name)
        events.get(len(calls), lambda: None)()
        return Measurement(len(calls), "s")

    return measure


def fail() -> None:
    raise RuntimeError("no more")


def test_rounds_before_a_failure_count_and_none_follows() -> None:
    turns, interrupted = rounds.take_turns("ab", 3, measuring({3: fail}))
    assert not interrupted
    assert ([m.value for m in turns["a"].measured], turns["a"].error) == ([1], "no more")
    assert ([m.value for m in turns["b"].measured], turns["b"].error) == ([2, 4, 5], "")


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_and_fail() -> None:
    interrupt()
    fail()


@pytest.mark.parametrize(("event", "of_a"), [(interrupt, [1, 3]), (interrupt_and_fail, [1])])
def test_ctrl_c_keeps_what_was_measured(event: Callable[[], None], of_a: list[float]) -> None:
    before = signal.getsignal(signal.SIGINT)
    turns, interrupted = rounds.take_turns("ab", 3, measuring({3: event}))
    assert interrupted
    assert [m.value for m in turns["a"].measured] == of_a
    assert [m.value for m in turns["b"].measured] == [2]
    assert not turns["a"].error, "a contestant that was stopped has not failed"
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_before_the_first_figure_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.py", "data", "--json", "x.json"])
    monkeypatch.setattr(bench, "in_own_process", lambda name: interrupt_and_fail())
    assert bench.main() == 130
    assert "stopped before anything was measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_does_not_wait() -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        rounds.take_turns("a", 1, measuring({1: twice}))


def test_a_killed_process_is_told_by_its_signal() -> None:
    assert rounds.why_failed(-9, "UserWarning: of something else") == (
        "ended by SIGKILL, perhaps for want of memory"
    )
    assert rounds.why_failed(2, "a\nerror: b\n") == "b"
    assert rounds.why_failed(3, "") == "exit code 3"


# ---- figures ----


def test_ratios_are_of_the_rounds_that_both_have() -> None:
    found = report.ratios(seconds(1, 2, 90), seconds(2, 8))
    assert found == {"of_medians": 1.5 / 5, "by_rounds": (1 / 2 + 2 / 8) / 2}


def test_mfu_is_of_the_highest_peak_of_its_own_precision() -> None:
    results = {
        "slow": seconds(1, peak=10.0),
        "twice": seconds(1, 1, peak=20.0),
        "other": seconds(1, peak=100.0, precision="bf16"),
        "none": [],
    }
    found = report.summaries(results, "slow")
    assert {name: row["mfu"] for name, row in found.items()} == {
        "slow": 1 / 20,
        "twice": 1 / 20,
        "other": 1 / 100,
    }


def test_a_baseline_without_figures_leaves_those_of_others() -> None:
    found = report.summaries({"ours": seconds(3), "baseline": []}, "baseline")
    assert found["ours"]["median"] == 3 and found["ours"]["ratio"] is None
    assert report.costs({"ours": seconds(3), "baseline": []}, {"cost": ("ours", "baseline")}) == {}


# ---- clocks ----


def test_the_clock_counts_samples_of_the_timed_steps_alone() -> None:
    clock = Clock(argparse.Namespace(device="cpu", precision="fp32", warmup=2, steps=3))
    for step in range(6):  # the last one starts when the third of the timed ones has ended
        clock.count(10**step)
        clock.tick()
    assert clock.samples == 10**2 + 10**3 + 10**4
    assert clock.seconds() > 0


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    join_tokens=st.sampled_from([0, 1, 40, 512]),
    common=st.booleans(),
)
def test_each_entry_of_a_batch_is_counted_once(
    sizes: list[int], join_tokens: int, common: bool
) -> None:
    entries = [Entry("Say it." if common else f"{i} it.", "", "x" * n) for i, n in enumerate(sizes)]
    prompt = PromptFormat.from_dict(read_option("prompt_format", "alpaca"))
    tokenized = TokenizedEntries(entries, get_tokenizer("byte"), prompt, 1024, cut=True)
    how: dict[str, Any] = {"mask_prompt": True, "join_tokens": join_tokens}
    dataset = InstructionDataset(tokenized, 256, **how)
    assert count_entries(dataset[np.arange(len(sizes))]) == len(sizes)
    packed = PackedDataset(tokenized, 256, **how, room=1024)
    batch: InstructionBatch = packed[packed.rows(0, 0)]
    assert count_entries(batch) == len(sizes)


def test_the_first_answer_is_not_timed() -> None:
    asked: list[list[str]] = []
    args = argparse.Namespace(new_tokens=5)
    measured = answers._measure(args, "cpu", "fp32", ["a", "b"], asked.append)
    assert asked == [["a"], ["a", "b"]]
    assert measured.note.startswith("2 answers")


def test_guesses_for_one_prompt_are_not_compared_with_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    units = []
    for batch_size in (1, 2):
        options = [*NANO, "--prompt-tokens=4", "--new-tokens=4", f"--batch-size={batch_size}"]
        args = arguments(monkeypatch, "decode", *options)
        units.append(decode.gptlit_prompt_lookup(args).unit)
    assert units == ["tokens/s", "tokens/s of one prompt"]


# ---- what is refused, and how ----

NANO = ("--model=gpt2-nano", "--tokenizer=byte", "--device=cpu")


def arguments(monkeypatch: pytest.MonkeyPatch, *command: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["bench.py", *command])
    return bench._arguments()


MISTAKES = {
    "no kind": ([], "the following arguments are required: kind"),
    "no rounds": (["train", "--rounds", "0"], "--rounds: 0 is not above 0"),
    "no time": (["data", "--seconds", "nan"], "--seconds: nan is not above 0"),
    "no end": (["data", "--seconds", "inf"], "--seconds: inf is not above 0"),
    "json": (["data", "--json", "."], "--json .: it is a folder; give a file"),
    "contestant": (["data", "--contestants", "loader,x"], "no contestant 'x'; there are: gptlit"),
    "no device": (["train", "--device", "cuda"], "--device cuda is not available: this machine"),
    "fp16": (["train", "--device", "cpu", "--precision", "fp16"], "use --precision bf16 or fp32"),
    "no data": (["classify", "--data", "x"], "--data x: there is no such file; give one"),
    "no entries": (["answers", "--data", "x.json"], "--data x.json: there is no such file; give"),
    "no weights": (["decode", "--weights", "x"], "--weights x: give a folder that scripts/export"),
    "no text": (["decode", "--text", "x"], "--text x: No such file or directory; give a file of"),
    "little text": (["decode", "--new-tokens", "99999"], "are needed: give more text"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line_before_anything_is_measured(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, said = MISTAKES[case]
    if case == "no device" and torch.cuda.is_available():
        pytest.skip("it is there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.py", *command])
    monkeypatch.setattr(bench, "in_own_process", lambda name: pytest.fail(f"{name} was measured"))
    try:
        code = bench.main()
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


def test_decoding_takes_precisions_that_training_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(monkeypatch, "decode", *NANO, "--precision", "fp16")
    assert decode.check(args) == "cpu"


def test_every_contestant_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in bench.KINDS.items():
        data = ["--data", "x"] if name in ("classify", "instruct", "answers") else []
        for contestant in kind.CONTESTANTS:
            args = arguments(monkeypatch, name, *data, "--contestants", contestant)
            assert args.contestants == [contestant]


def test_help_says_what_is_measured_and_what_contestants_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(monkeypatch, "decode", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "New tokens per second of greedy decoding" in shown
    assert "--new-tokens NEW_TOKENS per prompt (default: 128)" in shown
    assert "(default: None)" not in shown
    assert "gptlit-prompt-lookup: The same with guesses, as generate.py does" in shown


def test_transformers_is_left_out_or_asked_for_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_has_transformers", lambda: False)
    assert arguments(monkeypatch, "train").contestants == ["gptlit", "gptlit-raw"]
    with pytest.raises(SystemExit):
        arguments(monkeypatch, "train", "--contestants", "gptlit,transformers")
    assert "pip install -e '.[test]', or leave it out" in capsys.readouterr().err


def test_more_tokens_than_the_context_of_trained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GPTModel(GPTConfig(257, context_length=64, emb_dim=32, n_heads=2, n_layers=1))
    export_huggingface(model, "byte", tmp_path / "trained", 256, {})
    trained = ["decode", "--device=cpu", "--weights", str(tmp_path / "trained")]
    with pytest.raises(UserError, match=r"are 160, but the context of .* has 64: give fewer"):
        decode.check(arguments(monkeypatch, *trained))
    args = arguments(monkeypatch, *trained, "--prompt-tokens=4", "--new-tokens=60")
    assert decode.check(args) == "cpu"
    assert args.model is args.tokenizer is None, "they are not what is measured"


def test_files_with_too_few_entries_and_answers_that_are_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "entries.json"

    def args(kind: str, entries: int, *options: str) -> argparse.Namespace:
        written = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(entries)]
        file.write_text(json.dumps(written))
        model = NANO if kind == "answers" else NANO[:1]
        return arguments(monkeypatch, kind, "--data", str(file), *model, *options)

    with pytest.raises(UserError, match=r"has 7 entries to train on, fewer than --batch-size 8"):
        instruct.check(args("instruct", 9))
    with pytest.raises(UserError, match=r"has no entry for the test split: give 10 or more"):
        answers.check(args("answers", 9))
    with pytest.raises(UserError, match=r"with --new-tokens 1000 it exceeds the context of 1024"):
        answers.check(args("answers", 20, "--new-tokens", "1000"))
