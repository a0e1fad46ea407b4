"""Keys and values of the tokens already seen, so that each new token costs one position."""

from torch import Tensor

from gptlit.model.config import GPTConfig


class KVCache:
    """A static key/value cache: allocated at the first keys, filled in place.

    Args:
        cfg: the model's shape.
        max_length: tokens that it can hold; never more than `cfg.context_length`.
    """

    def __init__(self, cfg: GPTConfig, max_length: int) -> None:
        self.n_layers = cfg.n_layers
        self.max_length = min(max_length, cfg.context_length)
        self.length = 0
        """Tokens held by every layer; the model advances it once a forward pass is through."""
        self._store: list[tuple[Tensor, Tensor]] = []  # of each layer

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, n_heads, T, head_dim) of one layer behind what it holds.

        Returns:
            views of all keys and values up to now, each (B, n_heads, length + T, head_dim).

        Raises:
            ValueError: there is no room for T more tokens.
        """
        start, stop = self.length, self.length + k.shape[2]
        if stop > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens, {stop} are needed")
        if not self._store:
            B, H, _, D = k.shape  # noqa: N806
            store = k.new_empty(self.n_layers, 2, B, H, self.max_length, D)
            self._store = [(store[i, 0], store[i, 1]) for i in range(self.n_layers)]
        keys, values = self._store[layer]
        keys.narrow(2, start, k.shape[2]).copy_(k)
        values.narrow(2, start, k.shape[2]).copy_(v)
        return keys.narrow(2, 0, stop), values.narrow(2, 0, stop)

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0
