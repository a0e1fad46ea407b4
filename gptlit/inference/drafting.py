"""Guesses at the next tokens, so that one pass over the weights may give several.

Decoding one token reads every weight; a few more positions in the same pass cost little. So some
tokens are guessed, the pass computes the logits after each of them, and guesses are kept up to the
first that differs from the token drawn there (Leviathan et al. 2023, "Fast Inference from
Transformers via Speculative Decoding"). Guessing needs no second model here: the guess is what
followed the newest tokens when they last occurred in the text, which includes the prompt ("prompt
lookup decoding", Saxena 2023).
"""

from collections.abc import Iterable

LOOKED_UP = 2
"""How many of the newest tokens must have occurred before, for what followed to be a guess."""
LONGEST = 8
"""Most tokens guessed at once, as long as guesses come true."""


class PromptLookup:
    """A growing text, with guesses at how it continues.

    Args:
        ids: the prompt.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}
        """By LOOKED_UP tokens: the position of the token that last followed them."""
        self._size = 1
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token to the text."""
        if len(self._ids) >= LOOKED_UP:
            self._followed[tuple(self._ids[-LOOKED_UP:])] = len(self._ids)
        self._ids.append(token)

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; none if the newest two have not occurred
        together before, or if `limit` is not above 0."""
        at = self._followed.get(tuple(self._ids[-LOOKED_UP:]))
        if at is None:
            return []
        # A guess that reaches the end of the text starts again, as a repeating text does.
        period = self._ids[at : at + self._size]
        return [period[i % len(period)] for i in range(min(self._size, limit))]

    def adapt(self, drafted: int, kept: int) -> None:
        """Note how many of the drafted tokens were kept: guess more after a success, fewer after a
        failure."""
        if drafted:
            self._size = min(2 * self._size, LONGEST) if kept == drafted else max(kept, 1)
