import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gptlit import tokenizer as module
from gptlit.tokenizer import ByteTokenizer, GPT2Tokenizer, Tokenizer, get_tokenizer

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
# As in OpenAI's encoder.py.
PUBLISHED_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)

spaces = st.sampled_from(
    [" ", "   ", "\n", "\n\n", "\r\n", "\t", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028"]
)
words = st.sampled_from(
    ["x", "'s", "'LL", "don't", "we've", "1234", "½", "é", "e\u0301", "日本", "Ünï", "!?"]
)
rare = st.sampled_from(
    ["<|endoftext|>", "😀", "👩\u200d👧", "\ufffd", "\ud7ff", "\ue000", "\U0010ffff"]
)
fragments = spaces | words | rare
texts = st.one_of(st.text(), st.lists(fragments, max_size=30).map("".join))
both = pytest.mark.parametrize("name", ["gpt2", "byte"])


@pytest.fixture(scope="module")
def published() -> tiktoken.Encoding:
    if not (SHARED / "vocab.bpe").exists():
        pytest.skip(f"OpenAI's vocab.bpe and encoder.json are not in {SHARED}")
    ranks = data_gym_to_mergeable_bpe_ranks(str(SHARED / "vocab.bpe"), str(SHARED / "encoder.json"))
    return tiktoken.Encoding(
        "published",
        pat_str=PUBLISHED_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )


@settings(derandomize=True, max_examples=400)
@given(text=texts)
def test_gpt2_ids_are_those_of_the_published_files(published: tiktoken.Encoding, text: str) -> None:
    assert get_tokenizer("gpt2").encode(text) == published.encode(text, disallowed_special=())


def test_gpt2_numbers_every_token_as_published() -> None:
    if not (SHARED / "encoder.json").exists():
        pytest.skip(f"OpenAI's encoder.json is not in {SHARED}")
    published = json.loads((SHARED / "encoder.json").read_text(encoding="utf-8"))
    gpt2 = get_tokenizer("gpt2")
    assert len(published) == gpt2.vocab_size
    for token, token_id in published.items():
        if token.isascii() and token_id != gpt2.eot_id:
            assert gpt2.decode([token_id]) == token


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, I am", [15496, 11, 314, 716]),
        ("Every effort moves you", [6109, 3626, 6100, 345]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("", []),
    ],
)
def test_gpt2_ids_of_known_texts(text: str, ids: list[int]) -> None:
    assert get_tokenizer("gpt2").encode(text) == ids


@both
@settings(derandomize=True, max_examples=200)
@given(text=texts)
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot_id not in ids
    as_array = tokenizer.encode_to_numpy(text)
    assert as_array.dtype == np.uint32
    assert as_array.tolist() == ids


@both
@settings(derandomize=True, max_examples=10)
@given(text=texts)
def test_token_bytes_add_up_to_the_length_in_utf8(name: str, text: str) -> None:
    tokenizer = get_tokenizer(name)
    assert tokenizer.token_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


@both
@settings(derandomize=True, max_examples=100)
@given(parts=st.lists(st.one_of(texts, st.characters(categories=["Cs"]))))
def test_surrogates_are_no_error(name: str, parts: list[str]) -> None:
    tokenizer = get_tokenizer(name)
    text = "".join(parts)
    readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == readable
    assert tokenizer.encode_to_numpy(text).tolist() == tokenizer.encode(text)


def test_a_million_spaces_before_a_word_are_no_error() -> None:
    gpt2 = get_tokenizer("gpt2")
    spaces = " " * 1_000_100
    expected = gpt2.encode("some" + spaces[1:]) + gpt2.encode(" text") + gpt2.encode(spaces)
    assert gpt2.encode("some" + spaces + "text" + spaces) == expected


@both
@pytest.mark.parametrize("beyond", [0, 7, -(10**6)])
def test_an_id_outside_of_the_vocabulary_is_named(name: str, beyond: int) -> None:
    tokenizer = get_tokenizer(name)
    bad = tokenizer.vocab_size + beyond
    with pytest.raises(ValueError, match=f"{bad} is not in the vocabulary of tokenizer '{name}'"):
        tokenizer.decode([0, bad])


@both
def test_half_a_character_decodes_to_a_replacement(name: str) -> None:
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode("😀")
    assert len(ids) > 1
    assert "\ufffd" in tokenizer.decode(ids[:-1])
    assert tokenizer.decode_bytes(ids[:-1]) + tokenizer.decode_bytes(ids[-1:]) == "😀".encode()


@pytest.mark.parametrize(
    ("name", "kind", "vocab_size", "eot_id"),
    [("gpt2", GPT2Tokenizer, 50257, 50256), ("byte", ByteTokenizer, 257, 256)],
)
def test_names_and_sizes(name: str, kind: type[Tokenizer], vocab_size: int, eot_id: int) -> None:
    tokenizer = get_tokenizer(name)
    assert isinstance(tokenizer, kind)
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id) == (name, vocab_size, eot_id)
    assert tokenizer.token_bytes().shape == (vocab_size,)
    assert tokenizer.token_bytes()[eot_id] == 0
    assert tokenizer.decode([eot_id]) == "<|endoftext|>"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no tokenizer 'gpt3'; there are: gpt2, byte"):
        get_tokenizer("gpt3")


@both
def test_another_process_gets_the_same_tokenizer_without_its_table(name: str) -> None:
    pickled = pickle.dumps(get_tokenizer(name))
    assert len(pickled) < 200
    assert pickle.loads(pickled) is get_tokenizer(name)


def test_a_damaged_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "gpt2.tiktoken"
    damaged.write_bytes(module.GPT2_RANKS.read_bytes()[:-1])
    monkeypatch.setattr(module, "GPT2_RANKS", damaged)
    module._gpt2_encoding.cache_clear()
    with pytest.raises(RuntimeError, match="damaged"):
        GPT2Tokenizer()
