"""Keys and values of the tokens already seen, which are then never computed again."""

from torch import Tensor

from gptlit.model.config import GPTConfig


class KVCache:
    """A static key/value cache: allocated when the first keys arrive, and filled in place.

    Args:
        cfg: the model's shape.
        max_length: tokens that it can hold; never more than `cfg.context_length`.
    """

    def __init__(self, cfg: GPTConfig, max_length: int) -> None:
        self.n_layers = cfg.n_layers
        self.max_length = min(max_length, cfg.context_length)
        self.length = 0
        """Tokens held by every layer; the model updates it at the end of a forward pass."""
        self._store: list[Tensor] = []  # one per layer: (2, B, n_heads, max_length, head_dim)

    def append(self, layer: int, kv: Tensor) -> Tensor:
        """Store keys and values (2, B, n_heads, T, head_dim) of one layer after those it holds.

        Returns:
            a view of all its keys and values so far, (2, B, n_heads, length + T, head_dim).

        Raises:
            ValueError: there is no room for T more tokens, the cache holds another number of rows
                than B, or a gradient would be taken through it.
        """
        _, B, H, T, D = kv.shape  # noqa: N806
        if kv.requires_grad:
            raise ValueError("a cache carries no gradient: use it within torch.no_grad()")
        stop = self.length + T
        if stop > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens, {stop} are needed")
        if not self._store:
            store = kv.new_empty(self.n_layers, 2, B, H, self.max_length, D)
            self._store = list(store.unbind())
        if self._store[layer].shape[1] != B:
            have = self._store[layer].shape[1]
            raise ValueError(f"the cache is of {have} rows, not of {B}: make a new KVCache")
        self._store[layer].narrow(3, self.length, T).copy_(kv)
        return self._store[layer].narrow(3, 0, stop)

    def truncate(self, length: int) -> None:
        """Forget all tokens after the first `length`; the memory stays allocated."""
        self.length = min(self.length, length)
