"""How a kind of backbone is driven: what every family answers, and the attention that all share.

Notation (B H N n P D d): see `pruning`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pruning.tokens import Tokens

Reads = Literal["nothing", "class_row", "attention"]  # what a method looks at of a block's attention


@dataclass(frozen=True)
class Family:
    """What the driver needs to know of a backbone.

    tokens: n, patch tokens at the input size the model was built for. depth: number of blocks. prefix: P.
    class_token: whether token 0 is a class token. image_shape: (channels, height, width).
    """

    tokens: int
    depth: int
    prefix: int
    class_token: bool
    heads: int
    head_width: int
    width: int
    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Attended:
    """What a block's attention half gives. output: [B, N, D], residual added. query, key, value: [B, H, N, d].

    attention: [B, H, N, N] float32, rows sum to 1, if it was asked for. class_row: its first row [B, H, N], if it
    was asked for.
    """

    output: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor | None
    class_row: Tensor | None


@dataclass(frozen=True)
class Parts:
    """What a block computes, for counting.

    entering, projecting, leaving: modules that treat tokens alike: before the projection to queries, keys and values,
    the projection, and what follows attention. after: the same behind where tokens may leave in mid-block.
    by_head: modules that run on each token once for each of so many heads. mixed_width: H d, over which attention's
    two products sum. fixed: modules that run so many times whatever the tokens.
    """

    entering: Sequence[nn.Module]
    projecting: Sequence[nn.Module]
    leaving: Sequence[nn.Module]
    after: Sequence[nn.Module]
    by_head: Sequence[tuple[nn.Module, int]]
    mixed_width: int
    fixed: Sequence[tuple[nn.Module, int]] = ()


class Architecture(ABC):
    """Drives the blocks of one model, in halves where a stage needs what happens inside.

    positional: whether blocks need each token's place in the grid (rotary tables, relative biases).
    """

    positional = False

    def __init__(self, model: nn.Module) -> None:
        """Raises UnsupportedBackbone with the reason."""
        self.model: Any = model
        self.family = self.describe()

    @abstractmethod
    def describe(self) -> Family:
        """Read the model's facts. Raises UnsupportedBackbone with the reason."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, D] as they enter block 0."""

    @abstractmethod
    def attend(self, number: int, tokens: Tokens, reads: Reads = "nothing") -> Attended:
        """Block `number`'s attention half on tokens [B, N, D]."""

    @abstractmethod
    def feed_forward(self, number: int, values: Tensor) -> Tensor:
        """Block `number`'s other half: [B, N, D] -> [B, N, D], residual added."""

    @abstractmethod
    def norm(self, tokens: Tokens) -> Tensor:
        """Tokens as they leave the last block, or the first of them -> the same, normed as the head takes them."""

    @abstractmethod
    def classify(self, normed: Tensor, sizes: Tensor | None, pre_logits: bool = False) -> Tensor:
        """Normed tokens, or the first of them that the head reads -> logits [B, classes].

        sizes: [B, N], by which a mean over tokens weighs them, and whose logarithm an attention pool adds to its
        logits; None if all count alike. pre_logits: what the last layer gets instead, [B, D].
        """

    def head(self, tokens: Tokens, pre_logits: bool = False) -> Tensor:
        """Tokens as they leave the last block, or the first of them that the head reads -> as of `classify`."""
        return self.classify(self.norm(tokens), tokens.sizes if tokens.pooled_by_size else None, pre_logits)

    @abstractmethod
    def head_reads(self) -> int | None:
        """How many tokens, the first ones, the head looks at as the model is now; None for all of them."""

    @abstractmethod
    def folds(self, number: int) -> bool:
        """Whether `attend_first` needs neither keys nor values of block `number`."""

    @abstractmethod
    def attend_first(self, number: int, tokens: Tokens, count: int) -> Tensor:
        """Block `number`'s attention half for its first `count` tokens alone: [B, count, D], residual added."""

    @abstractmethod
    def parts(self, number: int) -> Parts:
        """What block `number` computes, for counting."""

    def takes_whole(self, tokens: Tokens) -> bool:
        """Whether the model's own block can take the tokens: none of them has a size or a place to be told of."""
        return size_bias(tokens) is None and not (self.positional and tokens.index is not None)

    def run(self, number: int, tokens: Tokens) -> Tokens:
        """The whole of block `number`; untouched, with fused attention, wherever the tokens are plain."""
        if self.takes_whole(tokens):
            return tokens.with_values(self.run_untouched(number, tokens.values))
        return tokens.with_values(self.feed_forward(number, self.attend(number, tokens).output))

    @property
    def reads_members_from(self) -> int | None:
        """The first block in which the tokens that the head reads attend to what others have been merged from: the
        last quarter's; None where the head reads all tokens."""
        return None if self.head_reads() is None else last_quarter(self.family.depth)

    def run_untouched(self, number: int, values: Tensor) -> Tensor:
        """Block `number` as the model itself runs it, on all tokens [B, N, D] (or any, if not `positional`)."""
        result: Tensor = self.model.blocks[number](values)
        return result


def remembered_from(depth: int) -> int:
    """The first block whose merged tokens may be told apart again: behind the middle. What tokens of earlier blocks
    were before they merged says little about what they would be by now (tests/benchmarks/RESULTS.md)."""
    return depth // 2 + 1


def last_quarter(depth: int) -> int:
    """The first block of it: one of `depth` at least is in it."""
    return depth - max(1, depth // 4)


def mix(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, reads: Reads
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Softmax attention of [B, H, N, d]: its output [B, H, N, d], and what `reads` asks for (see `Attended`).

    bias: added to the logits, broadcastable to [B, H, N, N]. What is read is computed in float32 whatever the
    model's dtype, like the fused kernel does; the kernel runs unless the whole attention is read.
    """
    if reads == "attention":
        logits = _logits(query, key, scale)
        attention = _softmax(logits if bias is None else logits + bias)
        return attention.to(value.dtype) @ value, attention, attention[:, :, 0]
    mask = None if bias is None else bias.to(query.dtype)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    row = None
    if reads == "class_row":
        logits = _class_logits(query, key, scale)
        row = (logits if bias is None else logits + bias[:, :, :1]).float().softmax(dim=-1).squeeze(2)
    return mixed, None, row


def _class_logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The first row of scale q k^T, [B, H, 1, N].

    Where nobody watches the operators, all heads' keys side by side, as their projection leaves them, times a matrix
    with one head's query in each column: the same sums, and the keys are not copied.
    """
    asking = query[:, :, :1] * scale  # [B, H, 1, d]
    batch, heads, count, width = key.shape
    if is_watched(query) or asking.shape[1] != heads:
        return asking @ key.transpose(-2, -1)
    own = torch.eye(heads, dtype=asking.dtype, device=asking.device)
    columns = (asking.transpose(-2, -1) * own[:, None]).flatten(1, 2)  # [B, H d, H]
    return (key.transpose(1, 2).reshape(batch, count, heads * width) @ columns).transpose(1, 2)[:, :, None]


def _logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """scale q k^T, [B, H, N, N]; where nobody watches the operators, in one product that scales as it goes."""
    if is_watched(query):
        return (query * scale) @ key.transpose(-2, -1)
    batch, heads, count, width = query.shape
    left, right = query.reshape(-1, count, width), key.reshape(-1, key.shape[2], width)
    empty = left.new_empty(1, 1, 1)  # beta = 0: not read
    product = torch.baddbmm(empty, left, right.transpose(-2, -1), beta=0, alpha=scale)
    return product.view(batch, heads, count, -1)


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in float32; in place where nobody needs the logits any more.

    New memory for a batch's attention costs more than the softmax itself: on one core of an EPYC, DeiT-S, 4 images,
    1.6 ms against 0.7 ms.
    """
    wide = logits.float()
    return wide.softmax(dim=-1) if is_watched(logits) else torch.softmax(wide, dim=-1, out=wide)


def is_watched(tensor: Tensor) -> bool:
    """Whether operators are being recorded: by autograd, a trace, torch.compile or torch.export."""
    recording = torch.is_grad_enabled() and tensor.requires_grad
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return recording or tracing or torch.compiler.is_compiling()


def size_bias(tokens: Tokens) -> Tensor | None:
    """The log of each token's size to a power, [B, 1, 1, N], for proportional attention (ToMe, section 3), or None."""
    if tokens.sizes is None or not tokens.size_exponent:
        return None
    bias = tokens.sizes.log()[:, None, None, :]
    return bias if tokens.size_exponent == 1 else bias * tokens.size_exponent
