"""What timm's isotropic transformers share: one patch embedding, blocks of one width, a pooled head.

A block is two residual branches, attention then MLP, each with a norm before it or behind it and perhaps a scale. What
differs is how a branch's queries, keys and values come about, and what is added to the logits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from pruning.architectures.base import Architecture, Attended, Family, Parts, Reads, mix, size_bias
from pruning.architectures.pooling import check_pooling, pool_by_size, pools_all
from pruning.errors import UnsupportedBackbone
from pruning.tokens import Tokens


class IsotropicViT(Architecture):
    """Drives blocks with `attn` and `mlp`, `norm1` and `norm2`, and scales called `ls1`, `ls2` or `gamma_1`, `gamma_2`.

    blocks: the types of block that are known, each with the types of attention known in it.
    norms_behind: those of them whose norms come behind the branch instead of before it.
    """

    blocks: ClassVar[Mapping[type[nn.Module], tuple[type[nn.Module], ...]]]
    norms_behind: ClassVar[tuple[type[nn.Module], ...]] = ()
    rotates = False  # whether queries and keys are turned by their place

    @abstractmethod
    def project(self, number: int, entering: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, N, d] of block `number` from what enters its attention [B, N, D]."""

    def bias(self, number: int, tokens: Tokens) -> Tensor | None:
        """What block `number` adds to its logits, broadcastable to [B, H, N, N]; sizes are not its concern."""
        return None

    def describe(self) -> Family:
        vit = self.model
        for index, block in enumerate(vit.blocks):
            self.check_block(index, block)
        check_patches(vit)
        check_pooling(vit)
        if len(vit.blocks) < 2:
            raise UnsupportedBackbone("backbone must have at least 2 blocks: dropping after the last one saves nothing")
        attention = vit.blocks[0].attn
        return Family(
            tokens=vit.patch_embed.num_patches,
            depth=len(vit.blocks),
            prefix=vit.num_prefix_tokens,
            class_token=vit.cls_token is not None,
            heads=attention.num_heads,
            head_width=head_width(attention),
            width=vit.embed_dim,
            image_shape=(vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size),
        )

    def check_block(self, index: int, block: nn.Module) -> None:
        """Raises UnsupportedBackbone unless the block is one of `blocks`. Types are compared exactly."""
        attention = getattr(block, "attn", None)
        if type(attention) in self.blocks.get(type(block), ()):
            return
        found = f"{type(block).__name__}" + (f" with {type(attention).__name__}" if attention is not None else "")
        why = REASONS.get(type(block).__name__) or REASONS.get(type(attention).__name__, "computes otherwise")
        known = ", ".join(
            f"{each.__name__} with {' or '.join(inner.__name__ for inner in attentions)}"
            for each, attentions in self.blocks.items()
        )
        raise UnsupportedBackbone(
            f"backbone block {index} is {found}, which {why}: supported in {type(self.model).__name__} are {known}"
        )

    def attend(self, number: int, tokens: Tokens, reads: Reads = "nothing") -> Attended:
        block = self.model.blocks[number]
        behind = type(block) in self.norms_behind
        entering = tokens.values if behind else block.norm1(tokens.values)
        query, key, value = self.project(number, entering, tokens)
        bias = together(self.bias(number, tokens), size_bias(tokens))
        mixed, attention, row = mix(query, key, value, block.attn.scale, bias, reads)
        branch = leave(block.attn, mixed, entering)
        output = tokens.values + scaled(block, 1, block.norm1(branch) if behind else branch)
        return Attended(output, query, key, value, attention, row)

    def feed_forward(self, number: int, values: Tensor) -> Tensor:
        block = self.model.blocks[number]
        behind = type(block) in self.norms_behind
        branch = block.norm2(block.mlp(values)) if behind else block.mlp(block.norm2(values))
        return values + scaled(block, 2, branch)

    def norm(self, tokens: Tokens) -> Tensor:
        normed: Tensor = self.model.norm(tokens.values)
        return normed

    def classify(self, normed: Tensor, sizes: Tensor | None, pre_logits: bool = False) -> Tensor:
        if sizes is not None and pools_all(self.model) and not self._is_altered():
            return pool_by_size(self.model, normed, sizes, pre_logits)
        logits: Tensor = self.model.forward_head(normed, **({"pre_logits": True} if pre_logits else {}))
        return logits

    def head_reads(self) -> int | None:
        """The class token, where it alone is read."""
        reads_class_token = self.family.class_token and self.model.global_pool == "token" and not pools_all(self.model)
        return 1 if reads_class_token and not self._is_altered() else None

    def _is_altered(self) -> bool:
        """Whether something stands in place of timm's own methods on this model: it may read anything."""
        return bool({"forward_head", "pool"} & set(vars(self.model)))

    def folds(self, number: int) -> bool:
        attention = self.model.blocks[number].attn
        normed = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        return (
            not self.rotates
            and type(attention.qkv) is nn.Linear
            and all(norm is None or type(norm) is nn.Identity for norm in normed)
        )

    def attend_first(self, number: int, tokens: Tokens, count: int) -> Tensor:
        """Where it `folds`: with W_k, W_v a head's projections, q (W_k x + b_k) is (W_k^T q) x up to what all x share,
        and the mean of W_v x + b_v is W_v applied to the mean of x, plus b_v. So a few products of q and of the mean
        stand for keys and values of all tokens.
        """
        block = self.model.blocks[number]
        behind = type(block) in self.norms_behind
        entering = tokens.values if behind else block.norm1(tokens.values)
        bias = together(self.bias(number, tokens), size_bias(tokens))
        if bias is not None and bias.shape[2] > 1:
            bias = bias[:, :, :count]
        if self.folds(number):
            mixed = mix_folded(block.attn, entering, count, bias)
        else:
            query, key, value = self.project(number, entering, tokens)
            mixed, _, _ = mix(query[:, :, :count], key, value, block.attn.scale, bias, "nothing")
        branch = leave(block.attn, mixed, entering[:, :count])
        return tokens.values[:, :count] + scaled(block, 1, block.norm1(branch) if behind else branch)

    def parts(self, number: int) -> Parts:
        block = self.model.blocks[number]
        attention = block.attn
        behind = (block.norm1,) if type(block) in self.norms_behind else ()
        heads = attention.num_heads
        return Parts(
            entering=() if behind else (block.norm1,),
            projecting=_present(attention, "qkv", "q_proj", "k_proj", "v_proj"),
            leaving=(*_present(attention, "norm", "proj", "gate"), *behind),
            after=(block.norm2, block.mlp),
            by_head=(
                (getattr(attention, "q_norm", nn.Identity()), heads),
                (getattr(attention, "k_norm", nn.Identity()), getattr(attention, "num_kv_heads", heads)),
            ),
            mixed_width=heads * head_width(attention),
        )


def _present(module: nn.Module, *names: str) -> tuple[nn.Module, ...]:
    return tuple(part for name in names if (part := getattr(module, name, None)) is not None)


REASONS = {
    "ParallelScalingBlock": "runs attention and MLP side by side, so tokens cannot leave between them",
    "DiffParallelScalingBlock": "runs attention and MLP side by side, so tokens cannot leave between them",
    "ParallelThingsBlock": "runs several attentions side by side, so there is no one attention graph",
    "DiffAttention": "subtracts two attentions, so there is no one attention graph",
}


def head_width(attention: Any) -> int:
    """d; BEiT's attention does not name it."""
    return int(getattr(attention, "head_dim", 0) or attention.qkv.out_features // (3 * attention.num_heads))


def project(module: Any, entering: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, N, d] of an attention with one projection for all three, from [B, N, D].

    EVA's and BEiT's hold their biases apart from it; theirs for keys is zero.
    """
    batch, count, _ = entering.shape
    projected = module.qkv(entering)
    if getattr(module, "q_bias", None) is not None:
        projected = projected + torch.cat((module.q_bias, module.k_bias, module.v_bias))
    qkv = projected.reshape(batch, count, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    return normed_by_head(module, query, key, value)


def mix_folded(module: Any, entering: Tensor, count: int, bias: Tensor | None) -> Tensor:
    """What attention gives the first `count` tokens, [B, H, count, d], without keys and values of [B, N, D]."""
    query_weight, key_weight, value_weight = module.qkv.weight.unflatten(0, (3, module.num_heads, -1))  # [H, d, D]
    query_bias, value_bias = module.qkv.bias, None
    if getattr(module, "q_bias", None) is not None:
        query_bias, value_bias = module.q_bias, module.v_bias
    elif query_bias is not None:
        query_bias, _, value_bias = module.qkv.bias.chunk(3)
    query = torch.nn.functional.linear(entering[:, :count], query_weight.flatten(0, 1), query_bias)  # [B, R, H d]
    query = query.reshape(entering.shape[0], count, module.num_heads, -1).transpose(1, 2)  # [B, H, R, d]
    asked = by_head(query * module.scale, key_weight)  # [B, H, R, D]
    logits = (asked.flatten(1, 2) @ entering.transpose(-2, -1)).view(*asked.shape[:3], -1)
    attention = (logits if bias is None else logits + bias).float().softmax(-1).to(entering.dtype)  # [B, H, R, N]
    mean = (attention.flatten(1, 2) @ entering).view(*attention.shape[:3], -1)  # [B, H, R, D]
    mixed = by_head(mean, value_weight.transpose(-2, -1))
    return mixed if value_bias is None else mixed + value_bias.unflatten(0, (module.num_heads, 1, -1))


def by_head(rows: Tensor, weights: Tensor) -> Tensor:
    """rows [B, H, R, a] times each head's own weights [H, a, b]: [B, H, R, b], in one product a head; to broadcast the
    weights would copy them for each image."""
    batch, heads, count, width = rows.shape
    product = rows.transpose(0, 1).reshape(heads, -1, width) @ weights  # [H, B R, b]
    return product.view(heads, batch, count, -1).transpose(0, 1)


def normed_by_head(module: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys after the norms that some attentions have for them; BEiT's knows none."""
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    return query, key, value


def leave(module: Any, mixed: Tensor, entering: Tensor) -> Tensor:
    """What timm's attentions do after mixing: [B, H, N, d] -> [B, N, D]. Norm and gate are there or not."""
    batch, _, count, _ = mixed.shape
    output = mixed.transpose(1, 2).reshape(batch, count, -1)
    if hasattr(module, "norm"):
        output = module.norm(output)
    if getattr(module, "gate", None) is not None:
        output = output * module.gate(entering).sigmoid()
    result: Tensor = module.proj_drop(module.proj(output))
    return result


def scaled(block: Any, half: int, branch: Tensor) -> Tensor:
    """A branch as it joins the residual stream: LayerScale as a module, as a parameter, or not at all."""
    if hasattr(block, f"ls{half}"):
        branch = getattr(block, f"ls{half}")(branch)
    gamma: Tensor | None = getattr(block, f"gamma_{half}", None)
    if gamma is not None:
        branch = gamma * branch
    result: Tensor = getattr(block, f"drop_path{half}")(branch)
    return result


def together(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two biases, either of which may be none."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def gather_bias(table: Tensor, tokens: Tokens, prefix: int) -> Tensor:
    """Relative position biases of all pairs, [1, H, P + n, P + n], for the tokens that are left: [B, H, N, N]."""
    if tokens.index is None:
        return table
    batch = tokens.index.shape[0]  # not len(): see `PrunedViT._images_at_once`
    head = torch.arange(prefix, device=table.device).expand(batch, -1)
    places = torch.cat((head, tokens.index + prefix), dim=1)  # [B, N]
    count = table.shape[-1]
    pairs = (places[:, :, None] * count + places[:, None, :]).flatten(1)  # [B, N N]
    heads, left = table.shape[1], places.shape[1]
    gathered = table.flatten(2).expand(batch, -1, -1).gather(2, pairs[:, None].expand(-1, heads, -1))
    return gathered.reshape(batch, heads, left, left)


def check_patches(model: Any) -> None:
    """Images must be cut into a known number of patches by one convolution. Raises UnsupportedBackbone."""
    embed = model.patch_embed
    if type(embed) is not PatchEmbed:
        raise UnsupportedBackbone(
            f"backbone embeds patches by {type(embed).__name__}, whose work is not known here: "
            "supported is timm's PatchEmbed, one convolution"
        )
    if tuple(embed.dynamic_feat_size(embed.img_size)) != tuple(embed.grid_size) or (
        not embed.strict_img_size and any(s % p for s, p in zip(embed.img_size, embed.patch_size, strict=True))
    ):
        raise UnsupportedBackbone(
            f"backbone's image size must be a multiple of its patch size, got {embed.img_size} and {embed.patch_size}; "
            "create it with another img_size"
        )
