"""Text to token ids and back: GPT-2's byte-pair encoding, and plain bytes."""

import base64
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import tiktoken

END_OF_TEXT = "<|endoftext|>"
GPT2_RANKS = Path(__file__).parent / "assets" / "gpt2.tiktoken"
GPT2_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

# The pre-tokenizer of GPT-2's encoder.py, with possessive quantifiers so that long runs of one
# kind of character do not backtrack.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# Unicode's White_Space, which the pattern means by \s; Python counts four control characters more.
LONG_SPACE = re.compile(r"[^\S\x1c-\x1f]{10000,}")


class Tokenizer(ABC):
    """What every tokenizer offers: `name`, `vocab_size` ids, and `eot_id`, which ends a document.

    Text is never searched for control tokens: a literal `<|endoftext|>` is ordinary text. Lone
    surrogates, which UTF-8 cannot hold, become U+FFFD.
    """

    name: str
    vocab_size: int
    eot_id: int

    @abstractmethod
    def encode_to_numpy(self, text: str) -> np.ndarray:
        """Token ids of `text`, (tokens,) uint32. Threads run it in parallel (no GIL is held)."""

    @abstractmethod
    def _token(self, token_id: int) -> bytes:
        """UTF-8 bytes of one valid id."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ids: list[int] = self.encode_to_numpy(text).tolist()
        return ids

    def encode_nonempty(self, text: str) -> np.ndarray:
        """Token ids of a text for a model to read, (tokens,) uint32, at least one: an empty text
        becomes the end-of-text id, after which every document starts."""
        return self.encode_to_numpy(text) if text else np.array([self.eot_id], dtype=np.uint32)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """UTF-8 bytes of `ids`; a token may hold only a part of a character.

        Raises ValueError for an id outside of the vocabulary.
        """
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"token id {token_id} is not in the vocabulary of tokenizer {self.name!r}, "
                    f"whose ids are 0 to {self.vocab_size - 1}"
                )
        return b"".join(map(self._token, ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that do not form a whole character become U+FFFD.

        Raises ValueError for an id outside of the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """How many UTF-8 bytes of text each id stands for, (vocab_size,) int64; 0 for eot_id."""
        lengths = np.array([len(self._token(i)) for i in range(self.vocab_size)], dtype=np.int64)
        lengths[self.eot_id] = 0
        return lengths

    def __reduce__(self) -> tuple[Callable[[str], "Tokenizer"], tuple[str]]:
        # Another process builds its own instead of receiving the table.
        return get_tokenizer, (self.name,)


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE of 50,257 ids, from the table in the package; needs no network.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", 2.2.
    """

    name = "gpt2"
    vocab_size = 50257
    eot_id = 50256

    def __init__(self) -> None:
        self._encoding = _gpt2_encoding()

    def encode_to_numpy(self, text: str) -> np.ndarray:
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            return self.encode_to_numpy(without_surrogates(text))
        except ValueError:
            # The regex engine gives up on a run of a million spaces before a word. All of the run
            # but its last character is one pre-token, so the text is cut there.
            ends = (run.end() for run in LONG_SPACE.finditer(text))
            cuts = [0, *(end - 1 for end in ends if end < len(text)), len(text)]
            return np.concatenate(
                [
                    self._encoding.encode_to_numpy(text[start:stop], disallowed_special=())
                    for start, stop in pairwise(cuts)
                ]
            )

    def _token(self, token_id: int) -> bytes:
        return self._encoding.decode_single_token_bytes(token_id)


class ByteTokenizer(Tokenizer):
    """One id per UTF-8 byte, 0 to 255, and 256 for the end of a document."""

    name = "byte"
    vocab_size = 257
    eot_id = 256

    def encode_to_numpy(self, text: str) -> np.ndarray:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = without_surrogates(text).encode()
        return np.frombuffer(encoded, dtype=np.uint8).astype(np.uint32)

    def _token(self, token_id: int) -> bytes:
        return END_OF_TEXT.encode() if token_id == self.eot_id else bytes((token_id,))


_TOKENIZERS: dict[str, type[Tokenizer]] = {"gpt2": GPT2Tokenizer, "byte": ByteTokenizer}


@cache
def get_tokenizer(name: str | Tokenizer) -> Tokenizer:
    """The tokenizer called `name`, the same object each time; a tokenizer is returned as it is.

    Raises ValueError for a name other than "gpt2" and "byte".
    """
    if isinstance(name, Tokenizer):
        return name
    if name not in _TOKENIZERS:
        raise ValueError(f"no tokenizer {name!r}; there are: {', '.join(_TOKENIZERS)}")
    return _TOKENIZERS[name]()


@cache
def _gpt2_encoding() -> tiktoken.Encoding:
    table = GPT2_RANKS.read_bytes()
    found = hashlib.sha256(table).hexdigest()
    if found != GPT2_RANKS_SHA256:
        raise RuntimeError(
            f"{GPT2_RANKS} is damaged: SHA-256 {found}, expected {GPT2_RANKS_SHA256}; "
            "install gptlit again"
        )
    ranks = {}
    for line in table.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding(
        "gptlit-gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: GPT2Tokenizer.eot_id},
        explicit_n_vocab=GPT2Tokenizer.vocab_size,
    )


def without_surrogates(text: str) -> str:
    """Surrogate pairs joined to the characters they mean; lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
