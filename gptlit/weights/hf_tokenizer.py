"""A byte-pair encoding written as the files that Hugging Face's tokenizers read.

Source of the alphabet and of the files' formats: OpenAI's encoder.py and vocab.bpe, 2019.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def tokenizer_files(
    tokens: Sequence[bytes],
    end_of_text: str,
    max_length: int,
    *,
    pads: bool = False,
    chat_template: str | None = None,
) -> dict[str, str]:
    """The files by name: vocab.json, merges.txt, tokenizer.json and tokenizer_config.json.

    Args:
        tokens: the bytes of every id; single bytes first, then the merges in their order, then
            `end_of_text`.
        end_of_text: the last token, as text.
        max_length: most tokens that the model can read.
        pads: `end_of_text` also pads batches, on the right. Inside a text it is then read as
            ordinary text, so that the last id that is not padding is the last of the text.
        chat_template: for a model that answers, the Jinja template that makes a prompt of messages.
            Batches of prompts are padded with `end_of_text` on the left, so that all end together.
    """
    *plain, _ = tokens
    alphabet = byte_alphabet()
    spelled = [_spell(token, alphabet) for token in plain]
    vocab = {token: i for i, token in enumerate([*spelled, end_of_text])}
    pairs = [f"{_spell(a, alphabet)} {_spell(b, alphabet)}" for a, b in _merges(plain)]
    config: dict[str, Any] = {
        **{f"{role}_token": end_of_text for role in ("bos", "eos", "unk")},
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    if pads:
        config |= {"pad_token": end_of_text, "padding_side": "right", "split_special_tokens": True}
    if chat_template is not None:
        config |= {"pad_token": end_of_text, "padding_side": "left", "chat_template": chat_template}
    return {
        "vocab.json": json.dumps(vocab),
        "merges.txt": "#version: 0.2\n" + "".join(f"{pair}\n" for pair in pairs),
        "tokenizer.json": json.dumps(_pipeline(vocab, pairs, end_of_text), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def byte_alphabet() -> list[str]:
    """A printable character for each byte: its own in Latin-1, if that is printable and no space,
    else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The two tokens that each token beyond the single bytes is merged from: what is left of its
    bytes once all earlier merges have been applied."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for rank, token in enumerate(tokens[256:], start=256):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(ranks.get(a + b, rank) for a, b in pairwise(parts))
            at = next(i for i, (a, b) in enumerate(pairwise(parts)) if ranks.get(a + b) == best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found.append((parts[0], parts[1]))
    return found


def _spell(token: bytes, alphabet: list[str]) -> str:
    return "".join(alphabet[byte] for byte in token)


def _pipeline(vocab: dict[str, int], pairs: list[str], end_of_text: str) -> dict[str, Any]:
    """tokenizer.json: byte-level pre-tokenizer and decoder around the merges."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab[end_of_text],
                "content": end_of_text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {**byte_level, "trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": pairs,
        },
    }
