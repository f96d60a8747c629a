"""The prefix cache: what the blocks before the first stage give, kept for the next schedule.

Those blocks are the dense model's, whatever the schedule, and the batches are the same in every trial; so their output
is computed once and a trial starts at its first stage.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class PrefixCache:
    """Tokens entering a block, by batch and block; the least recently used leave when the limit is reached."""

    def __init__(self, limit_bytes: int) -> None:
        """limit_bytes: of all tensors together; 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._tokens: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def deepest(self, batch: int, block: int) -> tuple[int, Tensor] | None:
        """The kept tokens of `batch` that enter the last block at or before `block`, and which block that is."""
        for entered in range(block, -1, -1):
            tokens = self._tokens.get((batch, entered))
            if tokens is not None:
                self._tokens.move_to_end((batch, entered))
                return entered, tokens
        return None

    def keep(self, batch: int, block: int, tokens: Tensor) -> None:
        """Keep the tokens of `batch` that enter `block`, unless they alone are over the limit."""
        size = tokens.numel() * tokens.element_size()
        if size > self.limit_bytes or (batch, block) in self._tokens:
            return
        while self.used_bytes + size > self.limit_bytes:
            _, oldest = self._tokens.popitem(last=False)
            self.used_bytes -= oldest.numel() * oldest.element_size()
        self._tokens[batch, block] = tokens
        self.used_bytes += size
