"""`gptlit.load(...)` in a notebook."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import gptlit
from gptlit.data.batch import TextBatch
from gptlit.errors import UserError
from gptlit.inference.checkpoint import load_trained
from gptlit.inference.generation import Sampling, generate_text
from gptlit.inference.packed import can_pack
from gptlit.inference.trained import TrainedModel
from gptlit.tasks.pretrain import PretrainTask
from tests.inference.decisive import decisive_model

torch.set_num_threads(1)

SHAPE = {"vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that has learnt for two steps."""
    torch.manual_seed(0)
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.AdamW(task.parameters(), lr=0.1)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    ids = torch.tensor([list(b"abcdefgh abcdefgh")])
    batches: Any = [TextBatch(ids[:, :-1], ids[:, 1:])] * 2
    trainer.fit(task, DataLoader(batches, batch_size=None))
    path = tmp_path_factory.mktemp("api") / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def model(ckpt: Path) -> gptlit.LanguageModel:
    return gptlit.load(ckpt, device="cpu", precision="fp32")


HOT: Any = {"temperature": 1.5, "seed": 3}


def test_a_run_folder_a_file_and_the_newest_run_are_the_same_model(
    ckpt: Path, tmp_path: Path
) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "latest").symlink_to(ckpt.parents[1])
    models = [
        gptlit.load(ckpt, device="cpu"),
        gptlit.load(str(ckpt.parents[1]), device="cpu"),
        gptlit.load(device="cpu", outputs=tmp_path),
    ]
    assert len({model.generate("abc", 20, **HOT) for model in models}) == 1


def test_a_prompt_gives_a_text_and_prompts_a_list(model: gptlit.LanguageModel) -> None:
    one = model.generate("abc", 12)
    several = model.generate(["abc", "x", ""], 12)
    assert isinstance(one, str) and isinstance(several, list)
    assert len(several) == 3 and several[0] == one
    assert model.generate([], 12) == []
    assert model.generate("abc", 0) == ""


@pytest.mark.parametrize("stop", [(), "e", "no such text", ["g", "ef"]])
def test_a_stream_is_the_text_in_pieces(model: gptlit.LanguageModel, stop: list[str]) -> None:
    pieces = list(model.stream("abc", 40, stop=stop, **HOT))
    assert "".join(pieces) == model.generate("abc", 40, stop=stop, **HOT)
    assert len(pieces) > 1 or stop


def test_a_stop_string_is_one_string_not_its_letters(model: gptlit.LanguageModel) -> None:
    text = model.generate("abc", 40, **HOT)
    end = text[10:12]
    stopped = model.generate("abc", 40, stop=end, **HOT)
    assert stopped == text[: text.index(end)]
    assert "".join(model.stream("abc", 40, stop=end, **HOT)) == stopped


def test_a_notebook_is_offered_what_is_public() -> None:
    gptlit.__dict__.pop("GPTModel", None)  # as before its first use
    assert set(gptlit.__all__) <= set(dir(gptlit))


def test_seeds_make_draws_repeatable(model: gptlit.LanguageModel) -> None:
    texts = [model.generate("abc", 30, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_generating_leaves_the_global_random_numbers_alone(model: gptlit.LanguageModel) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model.generate("abc", 5, **HOT)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"precision": "float32"}, r"precision=float32: allowed are auto, fp32"),
        ({"device": "tpu"}, r"device=tpu is not available: this machine has"),
        ({"device": torch.device("cpu", 0)}, r"device=cpu:0: .* by its kind alone, use cpu$"),
        ({"ckpt": "gpt2-smal"}, r"gpt2-smal.*did you mean gpt2-small"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_with_what_can(
    ckpt: Path, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        gptlit.load(options.pop("ckpt", ckpt), **options)


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": 2**64},
        {"seed": -1},
        {"seed": 1.5},
        {"max_new_tokens": -1},
        {"max_new_tokens": None},
        {"max_new_tokens": 2.0},
        {"temperature": None},
        {"temperature": float("nan")},
        {"top_k": None},
        {"top_k": 2.5},
        {"top_p": None},
        {"top_p": 0},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_told_with_it(
    model: gptlit.LanguageModel, bad: dict[str, Any]
) -> None:
    [(name, value)] = bad.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*0.*, got {value}$"):
        model.generate(["a", "b"], **{"temperature": 1, **bad})


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({"prompt": None}, "prompt: expected text, got NoneType"),
        ({"prompt": ["a", 65]}, "prompt: expected text, got int: 65"),
        ({"prompt": b"a"}, "prompt: expected text, got int"),
        ({"input": ["a"]}, "input: expected text, got list"),
        ({"stop": None}, r"stop: expected a string or several, got None; for none, stop=\(\)"),
        ({"stop": ["a", 1]}, "stop: expected a string or several"),
    ],
    ids=str,
)
def test_what_is_no_text_is_named(
    model: gptlit.LanguageModel, bad: dict[str, Any], line: str
) -> None:
    with pytest.raises(TypeError, match=line):
        model.generate(**{"prompt": "a", **bad})
    with pytest.raises(TypeError, match=line.partition(", got")[0]):
        model.stream(**{"prompt": "a", **bad})  # when it is called, not when it is read


def test_a_device_of_pytorch_is_one_by_its_name(ckpt: Path) -> None:
    assert gptlit.load(ckpt, device=torch.device("cpu")).device == "cpu"


@pytest.mark.skipif(not can_pack("fp16"), reason="needs FBGEMM and AVX2")
def test_a_model_whose_weights_are_packed_is_placed_once(ckpt: Path) -> None:
    trained = load_trained(ckpt)
    gptlit.LanguageModel(trained, "cpu", "fp16")
    with pytest.raises(ValueError, match="packed already: load it anew"):
        gptlit.LanguageModel(trained, "cpu", "fp32")


def test_every_seed_of_the_range_can_be_drawn_with(model: gptlit.LanguageModel) -> None:
    model.generate(["a", "b"], 2, temperature=1, seed=2**63 - 1)


def test_a_misspelt_option_is_an_error(model: gptlit.LanguageModel) -> None:
    with pytest.raises(TypeError, match="temprature"):
        model.generate("abc", 5, temprature=1.0)


def answering(context_length: int) -> gptlit.LanguageModel:
    settings = {"prompt": {"name": "x", "template": "{instruction}>{response};"}}
    shape = {**SHAPE, "context_length": context_length}
    trained = TrainedModel(task="instruction", model=shape, tokenizer="byte", settings=settings)
    return gptlit.LanguageModel(trained, "cpu", "fp32")


HISTORY = [("ab", "c"), ("d", "efg", "h")]
CHAT = [*b"ab>c;", 256, *b"d\nh>efg;", 256, *b"?\n!>"]


@pytest.mark.parametrize(
    ("context", "new_tokens", "left_out"),
    [(32, 9, 0), (28, 9, 0), (27, 9, 6), (22, 9, 6), (21, 9, 15), (21, 3, 6), (3, 1, 15)],
)
def test_the_oldest_turns_are_left_out_where_there_is_no_room(
    context: int, new_tokens: int, left_out: int
) -> None:
    model = answering(context)
    assert model.wrap_prompt("?", "!", HISTORY, new_tokens) == CHAT[left_out:]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (99, [*b"Be!\n\nab>c;", 256, *b"d\nh>efg;", 256, *b"?\n!>"]),
        (33, [*b"Be!\n\nab>c;", 256, *b"d\nh>efg;", 256, *b"?\n!>"]),
        (32, [*b"Be!\n\nd\nh>efg;", 256, *b"?\n!>"]),
        (27, [*b"Be!\n\nd\nh>efg;", 256, *b"?\n!>"]),
        (26, [*b"Be!\n\n?\n!>"]),
        (9, [*b"Be!\n\n?\n!>"]),
    ],
)
def test_what_the_system_says_stays_before_the_oldest_turn_that_is_left(
    context: int, expected: list[int]
) -> None:
    assert answering(context).wrap_prompt("?", "!", HISTORY, 9, "Be!") == expected


def test_what_the_system_says_stands_before_a_single_instruction() -> None:
    assert answering(40).wrap_prompt("?", "!", (), 9, "Be!") == "Be!\n\n?\n!>"


def test_half_of_the_context_is_for_the_turns_however_long_the_answer_may_be() -> None:
    assert answering(40).wrap_prompt("?", "!", HISTORY, 9999) == CHAT
    assert answering(36).wrap_prompt("?", "!", HISTORY, 9999) == CHAT[6:]


def test_answers_and_streams_go_on_with_a_chat() -> None:
    model = answering(40)
    model.model = decisive_model(model.model.cfg)
    given: Any = {"input": "!", "history": HISTORY, "stop": ";", "system": "~"}
    chat = [*b"~\n\n", *CHAT]
    [expected] = generate_text(model.model, model.tokenizer, [chat], 9, Sampling(), [";"])
    assert model.generate("?", 9, **given) == expected != model.generate("?", 9, input="!")
    assert model.generate(["?", "?"], 9, **given) == [expected] * 2
    assert "".join(model.stream("?", 9, **given)) == expected


@pytest.mark.parametrize("turn", ["ab", ("a",), ("a", 1), ("a", "b", "c", "d")])
def test_what_is_no_turn_is_named(turn: Any) -> None:
    with pytest.raises(
        UserError, match=r"history: .* is no turn; expected \(instruction, answer\)"
    ):
        answering(40).generate("?", history=[turn])


def test_end_of_text_in_a_turn_is_text_and_between_turns_the_token() -> None:
    ids = answering(99).wrap_prompt("?", "", [("<|endoftext|>", "a")], 9)
    assert ids == [*b"<|endoftext|>>a;", 256, *b"?>"]


def test_without_turns_before_a_prompt_is_text(model: gptlit.LanguageModel) -> None:
    assert answering(9).wrap_prompt("?", "!", (), 9) == "?\n!>"
    assert model.wrap_prompt("?", "!", (), 9) == "?"
    with pytest.raises(UserError, match=r"history: this model continues text .* as the prompt$"):
        model.wrap_prompt("?", "!", HISTORY, 9)
    with pytest.raises(UserError, match=r"system: this model continues text"):
        model.generate("?", system="Be kind.")
