"""From a prompt to text: sampling, the KV cache, guesses, sliding windows, stop strings."""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from gptlit.inference.drafting import PromptLookup
from gptlit.model import GPTModel, KVCache
from gptlit.tokenizer import Tokenizer

Prompt = str | Sequence[int]
"""Text; or token ids, if it contains end-of-text, as between the turns of a chat."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Keep only the k likeliest tokens (Fan et al. 2018); 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest tokens, likeliest first, that together reach p (Holtzman et al. 2020)."""
    seed: int = 0
    """Row i of a batch draws from a generator seeded with seed + i, so that what it draws does
    not depend on the rest of the batch. From 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        def must(name: str, kind: type, is_allowed: Callable[[Any], bool], expected: str) -> None:
            value = getattr(self, name)
            if not (isinstance(value, kind) and is_allowed(value)):
                raise ValueError(f"{name} must be {expected}, got {value!r}")

        # NaN is in no range.
        must("temperature", Real, lambda t: t >= 0, "a number from 0 on (greedy)")
        must("top_k", Integral, lambda k: k >= 0, "a whole number from 0 on (all tokens)")
        must("top_p", Real, lambda p: 0 < p <= 1, "a number in (0, 1], up to that of all tokens")
        # The generators' own seeds go up to twice that.
        must("seed", Integral, lambda seed: 0 <= seed < 2**63, "a whole number in [0, 2**63)")


class Sampler:
    """Draws one token for each row, with a random generator per row."""

    def __init__(self, sampling: Sampling, batch_size: int, device: torch.device) -> None:
        self.sampling = sampling
        self.generators = [
            torch.Generator(device).manual_seed(sampling.seed + row) for row in range(batch_size)
        ]

    def __call__(self, logits: Tensor) -> Tensor:
        """logits (B, V) -> token ids (B,) int64."""
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = filtered_probabilities(logits.float(), self.sampling)
        # argmax(p / Exp(1) noise) is a draw from p, without a search through cumulative sums.
        noise = torch.empty_like(probabilities)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        # Apple's GPUs draw a 0 now and then (PyTorch issue 192577). For a token that is filtered
        # out, 0 / 0 would be NaN, which argmax prefers to any number.
        noise.masked_fill_(noise <= torch.finfo(noise.dtype).tiny, torch.inf)
        return (probabilities / noise).argmax(dim=-1)


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities after top-k, then temperature, then top-p.

    Args:
        logits: (B, V) fp32.
        sampling: with a temperature above 0.

    Returns:
        (B, V), each row sums to 1 over the tokens that are kept; the likeliest is always kept.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    # The largest logit is shifted to 0, and the divisor clamped to finite numbers of fp32.
    # Otherwise a tiny temperature would make several logits infinite, and an infinite one would
    # turn those that top-k has left out into NaN.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    fp32 = torch.finfo(torch.float32)
    logits = logits / min(max(sampling.temperature, fp32.tiny), fp32.max)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # probability of all likelier tokens
        ordered = ordered.masked_fill(before >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, index, ordered)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


@torch.inference_mode()
def stream_ids(
    model: GPTModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    use_cache: bool = True,
    prompt_lookup: bool = True,
) -> Iterator[list[int]]:
    """Continue prompts of any lengths, one token each at a time.

    Prompts are padded on the left; padding is masked, and positions count from each prompt's
    first token. Once the text is longer than the context, the window slides: each new token sees
    the last `context_length` tokens, at positions counted from 0, as if there were no others.

    The next tokens of a single prompt are guessed from its text, so that a pass of the model may
    give several. The result is the same as without guesses, drawn with the same random numbers,
    except that a pass over more positions may round logits differently.

    Args:
        model: in any mode; it is left in the mode it came in.
        prompts: token ids, at least one each.
        max_new_tokens: how many tokens each gets.
        sampling: how tokens are drawn.
        use_cache: if False, each step computes every position anew, to check the cache against.
        prompt_lookup: if False, nothing is guessed and each token takes a pass. Without cache, for
            several prompts, and while the window slides, there are no guesses anyway.

    Yields:
        one token id for each prompt.

    Raises:
        ValueError: a prompt is empty, or has an id that the model does not know, or
            `max_new_tokens` is not a whole number from 0 on.
    """
    if not len(prompts):
        return
    device, window = model.tok_emb.weight.device, model.cfg.context_length
    shortest, longest = min(map(len, prompts)), max(map(len, prompts))
    ids = _padded(prompts, max_new_tokens, model.cfg.vocab_size).to(device)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    sampler = Sampler(sampling, len(prompts), device)
    cache = KVCache(model.cfg, longest + max_new_tokens)
    guessing = prompt_lookup and use_cache and len(prompts) == 1
    lookup = PromptLookup(prompts[0]) if guessing else None
    training = model.training
    model.eval()
    try:
        stop, end = longest, longest + max_new_tokens
        while stop < end:
            start = max(0, stop - window)
            if start > 0 or not use_cache:
                cache.truncate(0)  # every position has moved
            # Leave room for the token drawn after the guesses, and stay within the window.
            draft = lookup.draft(min(end - 1, window) - stop) if lookup else []
            if draft:
                ids[:, stop : stop + len(draft)] = torch.tensor(draft, device=device)
            past, positions, mask = cache.length, None, None
            if start < longest - shortest:  # there is padding inside the window
                left = (padding - start).clamp(min=0)  # columns of padding
                positions, mask = _positions_and_mask(left, past, stop - start)
            h = model.hidden(
                ids[:, start + past : stop + len(draft)],
                positions=positions,
                mask=mask,
                cache=cache if use_cache else None,
            )
            kept = 0
            for logits in model.logits(h[:, -1 - len(draft) :]).unbind(dim=1):
                tokens = sampler(logits)
                ids[:, stop] = tokens
                stop += 1
                step = tokens.tolist()
                newest = step[0]
                yield step
                if lookup:
                    lookup.append(newest)
                if kept == len(draft) or newest != draft[kept]:
                    break
                kept += 1
            cache.truncate(stop - 1)  # drops keys and values of wrong guesses
            if lookup:
                lookup.adapt(len(draft), kept)
    finally:
        model.train(training)


def _padded(prompts: Sequence[Sequence[int]], max_new_tokens: int, n_ids: int) -> Tensor:
    """Prompts padded on the left, with room for new tokens: (B, longest + new) int64, on the CPU.
    Raises ValueError as `stream_ids` does, for a model that knows `n_ids` ids."""
    if not (isinstance(max_new_tokens, Integral) and max_new_tokens >= 0):
        raise ValueError(f"max_new_tokens must be a whole number from 0 on, got {max_new_tokens!r}")
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt must hold at least one token")
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest + max_new_tokens, dtype=torch.int64, device="cpu")
    for row, prompt in zip(ids, prompts, strict=True):
        row[longest - len(prompt) : longest] = torch.as_tensor(prompt, device="cpu")
    for extreme in (int(ids.min()), int(ids.max())):
        if not 0 <= extreme < n_ids:
            raise ValueError(
                f"a prompt has the token id {extreme}, but the model knows 0 to {n_ids - 1}: take"
                " the tokenizer that it was trained with"
            )
    return ids


def _positions_and_mask(padding: Tensor, past: int, stop: int) -> tuple[Tensor, Tensor]:
    """Positions (B, T) and mask (B, 1, T, stop) for columns `past` to `stop` of rows that begin
    with `padding` (B,) columns of padding. Without any, the model's defaults are right, and faster.
    """
    columns = torch.arange(stop, device=padding.device)
    queries = columns[past:]
    positions = (queries - padding[:, None]).clamp(min=0)
    real = columns >= padding[:, None, None]  # (B, 1, stop)
    causal = columns <= queries[:, None]  # (T, stop)
    # A padding query may look at itself, or its softmax would be over nothing.
    mask = (real & causal) | (columns == queries[:, None])
    return positions, mask[:, None]


class TextStream:
    """Tokens in, text out as early as it is certain: whole characters, and nothing that may turn
    out to be the beginning of a stop string.

    Args:
        tokenizer: of the tokens.
        stop: a string that ends the text, or several; they are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop_strings(stop)
        self.finished = False
        """Whether an end-of-text token or a stop string has come."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Text that is certain after one more token."""
        if self.finished:
            return ""
        if token == self.tokenizer.eot_id:
            return self.flush()
        self._held += self._decoder.decode(self.tokenizer.decode_bytes([token]))
        ends = [at for s in self.stop if (at := self._held.find(s)) >= 0]
        if ends:
            self.finished = True
            text, self._held = self._held[: min(ends)], ""
            return text
        keep = max((_overlap(self._held, s) for s in self.stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def flush(self) -> str:
        """The rest, once no more tokens come."""
        self.finished = True
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that `text` ends with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def stop_strings(stop: str | Sequence[str]) -> list[str]:
    """A stop string, or several, as a list, without empty ones.

    Raises:
        TypeError: `stop` is anything else.
    """
    several: Any = [stop] if isinstance(stop, str) else stop
    if not isinstance(several, Iterable) or not all(isinstance(s, str) for s in several):
        raise TypeError(f"stop: expected a string or several, got {stop!r:.80}; for none, stop=()")
    return [s for s in several if s]


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The prompt's ids; an empty prompt is the start of a document."""
    if not isinstance(prompt, str):
        return list(prompt)
    ids: list[int] = tokenizer.encode_nonempty(prompt).tolist()
    return ids


def stream_text(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    sampling: Sampling,
    stop: str | Sequence[str] = (),
) -> Iterator[list[str]]:
    """Continue prompts until all have ended, yielding for each the text that became certain.

    Args:
        model, max_new_tokens, sampling: as in `stream_ids`.
        tokenizer: of the model.
        prompts: several, in a list.
        stop: as in `TextStream`.

    Raises:
        TypeError: `prompts` is a single text, or a stop string is not a string.
        ValueError: as in `stream_ids`.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts: expected a list, got a text; give [{prompts!r:.40}]")
    streams = [TextStream(tokenizer, stop) for _ in prompts]
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    for tokens in stream_ids(model, ids, max_new_tokens, sampling):
        yield [stream.push(token) for stream, token in zip(streams, tokens, strict=True)]
        if all(stream.finished for stream in streams):
            return
    yield [stream.flush() for stream in streams]


def generate_text(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    sampling: Sampling,
    stop: str | Sequence[str] = (),
) -> list[str]:
    """The continuation of each prompt, without the prompt; arguments as in `stream_text`."""
    texts = [""] * len(prompts)
    for parts in stream_text(model, tokenizer, prompts, max_new_tokens, sampling, stop):
        texts = [text + part for text, part in zip(texts, parts, strict=True)]
    return texts
