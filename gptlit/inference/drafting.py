"""Guesses at the next tokens, so that one pass over the weights may write several.

Decoding one token reads every weight for it; a few more positions in the same pass cost little.
So some tokens are guessed, the pass computes the logits behind each of them, and as many stand as
are what would have been drawn anyway (Leviathan et al. 2023, "Fast Inference from Transformers via
Speculative Decoding"). Here the guess needs no second model: what followed the last time that the
newest tokens stood in the text, its prompt included ("prompt lookup decoding", Saxena 2023).
"""

from collections.abc import Iterable

LOOKED_UP = 2
"""Tokens that must have stood in the text before, for what followed them to be a guess."""
LONGEST = 8
"""Tokens guessed at once, where guesses keep coming true."""


class PromptLookup:
    """A text as it grows, and guesses at how it goes on.

    Args:
        ids: the prompt.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}
        """Where what followed these tokens begins, the last time that they stood in the text."""
        self._size = 1
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """The text is a token longer."""
        if len(self._ids) >= LOOKED_UP:
            self._followed[tuple(self._ids[-LOOKED_UP:])] = len(self._ids)
        self._ids.append(token)

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; none where the newest two never stood together
        before, or where `limit` is not above 0."""
        at = self._followed.get(tuple(self._ids[-LOOKED_UP:]))
        if at is None:
            return []
        # What is guessed goes round again where it reaches the end of the text.
        period = self._ids[at : at + self._size]
        return [period[i % len(period)] for i in range(min(self._size, limit))]

    def adapt(self, drafted: int, kept: int) -> None:
        """Of so many drafted tokens, so many came true: guess more after a success, less after a
        failure."""
        if drafted:
            self._size = min(2 * self._size, LONGEST) if kept == drafted else max(kept, 1)
