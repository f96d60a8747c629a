"""`PrunedViT`: a timm vision transformer whose tokens are pruned by a schedule.

Drives the backbone's own blocks; blocks without a stage run untouched, with fused attention.

Exact savings: where the head reads prefix tokens alone (the class token, say), the last block's output of all other
tokens is computed for nobody. Only those rows are computed then, and neither keys nor values of the others
(`Architecture.attend_first`); the logits are the same up to rounding.

Unmerging: with a method's option `unmerge`, stages behind the middle of the model remember what they merge. In the
last quarter of the blocks the prefix tokens, where the head reads them alone, then attend to those tokens as they were
before they merged, each moved by what the merged token has gained since: a token's residual stream is its past plus all
that was added to it. As the prefix tokens' rows need neither keys nor values of what they attend to, this costs little.
All other tokens go on merged. (Bolya and Hoffman, "Token Merging for Fast Stable Diffusion", arXiv 2303.17604, section
4.1, unmerge all tokens behind each layer, by copies of the merged one.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.architectures import Architecture, Family, drive
from pruning.architectures.base import Reads, is_watched
from pruning.compilation import next_number, note_compilation
from pruning.errors import PruningError, ScheduleError, UnsupportedBackbone
from pruning.hooks import call_hooked, is_hooked
from pruning.merging import unmerged
from pruning.methods import load_method
from pruning.methods.base import Signals, TokenMethod
from pruning.schedule import UNTOUCHED, Schedule
from pruning.selection import image_seeds
from pruning.stage import StagePlan
from pruning.tokens import Tokens

OF_TIMM = ("num_classes", "num_features", "head_hidden_size", "embed_dim", "pretrained_cfg", "default_cfg")
CACHE_BYTES = 4 * 2**20  # of attention at once: DeiT-S, 16 images, one core: 164 ms a stage; 2 MiB 181, 64 MiB 212
UNTOUCHED_TOLERANCE = 1e-4  # float32 logits; fused and opened attention differ by rounding alone


class PrunedViT(nn.Module):
    """`backbone` under `schedule`. The backbone is neither copied nor changed; its state_dict keys gain "backbone.".

    It answers as timm's models do (`forward_features`, `forward_head`, `num_classes`, `get_classifier`,
    `reset_classifier` and others), hooks of every block fire, also of those that a stage opens, and `nn.DataParallel`
    replicates it.
    """

    def __init__(self, backbone: nn.Module, schedule: Schedule | None = None, *, exact_savings: bool = True) -> None:
        """exact_savings: False switches them off whatever the schedule says.

        Raises UnsupportedBackbone, or ScheduleError if the schedule does not fit the backbone.
        """
        super().__init__()
        self._driven: Architecture = drive(backbone)
        self.backbone = backbone
        self.exact_savings = exact_savings
        self._is_saving: bool | None = None  # None: as the model is now
        self._number = next_number()
        self.schedule = schedule or Schedule()

    def __setattr__(self, name: str, value: object) -> None:
        """Another backbone is driven from then on, under the same schedule. Raises as `__init__` does."""
        is_another = name == "backbone" and isinstance(value, nn.Module) and "backbone" in self._modules
        if is_another and not getattr(self, "_is_replica", False):  # a replica's has no parameters yet
            architecture = drive(value)  # type: ignore[arg-type]
            plan_stages(self.schedule, architecture)  # refuses what does not fit before anything is changed
            self._driven = architecture
            super().__setattr__(name, value)  # type: ignore[arg-type]
            self.schedule = self.schedule
            return
        super().__setattr__(name, value)  # type: ignore[arg-type]  # torch takes any object

    def __getattr__(self, name: str) -> Any:
        """timm's facts are the backbone's."""
        found = super().__getattr__("backbone" if name in OF_TIMM else name)
        return getattr(found, name) if name in OF_TIMM else found

    @property
    def architecture(self) -> Architecture:
        """What drives the backbone; in a replica that of the original, on the replica's own weights."""
        if self._driven.model is not self.backbone:
            self._driven = copy(self._driven)
            self._driven.model = self.backbone
        return self._driven

    def get_classifier(self) -> nn.Module:
        """The backbone's last layer."""
        found: nn.Module = self.backbone.get_classifier()  # type: ignore[operator]
        return found

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As timm's: another last layer, and another pooling if one is named. What can be saved is decided anew."""
        self.backbone.reset_classifier(num_classes, global_pool)  # type: ignore[operator]
        self.schedule = self.schedule

    @property
    def family(self) -> Family:
        """The backbone's facts."""
        return self.architecture.family

    @property
    def schedule(self) -> Schedule:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        """Switch to another schedule: counts are planned anew, nothing is copied. Raises ScheduleError."""
        self._stages = plan_stages(schedule, self.architecture)
        self._schedule, self._told = schedule, (schedule.key_for(self.family.tokens), str(schedule))

    @property
    def plans(self) -> tuple[StagePlan, ...]:
        """Token counts of the stages that drop something, by block."""
        return tuple(plan for plan, _ in self._stages.values())

    @property
    def first_stage(self) -> int:
        """The first block that a stage follows; the depth if none does. The blocks before it are the dense model's."""
        return min(self._stages, default=self.family.depth)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W], cast to the weights' dtype -> logits [B, classes]."""
        seeds = self.seeds(images)
        return self.logits(Tokens(self.embed(images)), seeds=seeds)

    def forward_features(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> the tokens that are left [B, P + K, D], normed, for `forward_head`.

        `token_sizes` of what is returned, [B, P + K] or None: how many tokens each stands for, where the head weighs
        by it.
        """
        tokens = self.advance(Tokens(self.embed(images)), seeds=self.seeds(images))
        features = self.architecture.norm(tokens)
        features.token_sizes = tokens.sizes if tokens.pooled_by_size else None  # type: ignore[attr-defined]
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` returned -> logits [B, classes], or with `pre_logits` the vectors [B, D] before."""
        return self.architecture.classify(features, getattr(features, "token_sizes", None), pre_logits)

    def logits(
        self, tokens: Tokens, start: int = 0, seeds: Tensor | None = None, *, pre_logits: bool = False
    ) -> Tensor:
        """Tokens entering block `start` -> logits [B, classes], or with `pre_logits` the pooled features [B, D] that
        the last layer gets."""
        last = self.family.depth - 1
        count = self.head_reads if self.is_saving and start <= last else None
        if count is None:
            return self.head(self.advance(tokens, start, seeds=seeds), pre_logits)
        tokens = self.advance(tokens, start, last, seeds)
        output = self.architecture.attend_first(last, unmerged(tokens, self.family.prefix), count)
        return self.head(Tokens(self.architecture.feed_forward(last, output)), pre_logits)

    @property
    def head_reads(self) -> int | None:
        """How many tokens, the first ones, the head reads as the model is now; None for all."""
        return self.architecture.head_reads()

    @property
    def is_saving(self) -> bool:
        """Whether logits are computed with exact savings: asked for, possible, and nobody sees the rest.

        They are off in training, whose gradients and stochastic depth are the whole block's, and where a hook watches
        the last block or the norm behind it.
        """
        if self._is_saving is not None:
            return self._is_saving
        asked = self.exact_savings and self.schedule.exact_savings and not self.training and not self.backbone.training
        watched = (self.architecture.model.blocks[-1], self.architecture.model.norm)
        return asked and self.head_reads is not None and not any(is_hooked(part) for part in watched)

    @contextmanager
    def keep_saving(self) -> Iterator[None]:
        """As it is now, whatever hooks are added meanwhile: a tracer's are no reason to compute otherwise."""
        self._is_saving = self.is_saving
        try:
            yield
        finally:
            self._is_saving = None

    def seeds(self, images: Tensor) -> Tensor | None:
        """What methods that draw at random need to know of the images; None if none of the schedule's does."""
        return image_seeds(images) if self.draws else None

    @property
    def draws(self) -> bool:
        """Whether a stage draws at random, so that `seeds` are needed."""
        return any(method.draws for _, method in self._stages.values())

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, D] entering block 0. Raises PruningError for another size."""
        if tuple(images.shape[1:]) != self.family.image_shape:  # some backbones would take them, with other tokens
            raise PruningError(
                f"images must be [B, {', '.join(map(str, self.family.image_shape))}], as the backbone was made for, "
                f"got {list(images.shape)}; create it with another img_size"
            )
        note_compilation(self._number, *self._told)
        weight = next(self.backbone.parameters(), None)  # a replica has tensors in place of parameters
        dtype = (self.architecture.model.blocks[0].attn.proj.weight if weight is None else weight).dtype
        return self.architecture.embed(images.to(dtype))

    def run_blocks(
        self, tokens: Tensor, start: int = 0, stop: int | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Tokens [B, N, D] entering block `start` -> tokens leaving block `stop` - 1, stages included.

        What a stage before `start` knew of its tokens is not known here: behind one, `advance` must be used with
        backbones whose blocks need positions, and with methods that merge.
        """
        return self.advance(Tokens(tokens), start, stop, seeds).values

    def advance(self, tokens: Tokens, start: int = 0, stop: int | None = None, seeds: Tensor | None = None) -> Tokens:
        """Tokens entering block `start` -> tokens leaving block `stop` - 1, stages included.

        In training with timm's `patch_drop_rate`, where fewer tokens enter block 0, stages keep their shares of those.
        """
        stages, entering = self._stages, tokens.values.shape[1] - self.family.prefix
        if start == 0 and self.training and entering != self.family.tokens and not self.architecture.positional:
            stages = plan_stages(self.schedule, self.architecture, entering)
        for number in range(start, self.family.depth if stop is None else stop):
            if number in stages:
                step = partial(self.run_stage, number, plan=stages[number][0], method=stages[number][1], seeds=seeds)
                tokens = call_hooked(self.architecture.model.blocks[number], step, tokens)
            elif self._reads_members(number, tokens):
                step = partial(self._run_reading_members, number)
                tokens = call_hooked(self.architecture.model.blocks[number], step, tokens)
            elif self.architecture.takes_whole(tokens):
                tokens = self.architecture.run(number, tokens)
            else:
                step = partial(self.architecture.run, number)
                tokens = call_hooked(self.architecture.model.blocks[number], step, tokens)
        return tokens

    def _reads_members(self, number: int, tokens: Tokens) -> bool:
        """Whether in block `number` the prefix tokens attend to what the tokens have been merged from."""
        first = self.architecture.reads_members_from
        return tokens.members is not None and first is not None and number >= first

    def _prefix_rows(self, number: int, tokens: Tokens) -> Tensor:
        """The prefix tokens behind block `number`'s attention to what others have been merged from, [B, P, D]."""
        prefix = self.family.prefix
        return self.architecture.attend_first(number, unmerged(tokens, prefix), prefix)

    def _run_reading_members(self, number: int, tokens: Tokens) -> Tokens:
        """The whole of block `number`."""
        rows, prefix = self._prefix_rows(number, tokens), self.family.prefix
        output = torch.cat((rows, self.architecture.attend(number, tokens).output[:, prefix:]), dim=1)
        return tokens.with_values(self.architecture.feed_forward(number, output))

    def head(self, tokens: Tokens, pre_logits: bool = False) -> Tensor:
        """Tokens leaving the last block -> logits [B, classes], or what the last layer gets instead [B, D]."""
        return self.architecture.head(tokens, pre_logits)

    def run_stage(
        self, number: int, tokens: Tokens, plan: StagePlan, method: TokenMethod, seeds: Tensor | None
    ) -> Tokens:
        """Block `number` with a stage: N tokens -> P + K."""
        expected, found = plan.tokens + self.family.prefix, tokens.values.shape[1]
        if found != expected:
            raise ScheduleError(f"block {plan.block} must get {expected} tokens, got {found}")
        reads = method.reads_for(plan, self.family.class_token)
        rows = self._prefix_rows(number, tokens) if self._reads_members(number, tokens) else None
        size = self._images_at_once(tokens.values, reads)
        if size >= tokens.values.shape[0]:
            return self._run_chunk(number, tokens, plan, method, seeds, rows)
        chunks = tokens.split(size)
        seeds_of, rows_of = (
            [None] * len(chunks) if whole is None else torch.split(whole, size) for whole in (seeds, rows)
        )
        done = [
            self._run_chunk(number, chunk, plan, method, *others)
            for chunk, *others in zip(chunks, seeds_of, rows_of, strict=True)
        ]
        return Tokens.join(done, () if tokens.members is None else tokens.members.merges)

    def _images_at_once(self, tokens: Tensor, reads: Reads) -> int:
        """How many images a stage takes at once: on a CPU, as many as have their attention in the cache together.

        Each vote reads the whole attention once more. On two cores of an EPYC this makes a stage 1.5 times as fast
        for a batch of 50 images (tests/benchmarks/stage.py).
        """
        if tokens.device.type != "cpu" or is_watched(tokens) or reads != "attention":
            return tokens.shape[0]  # not len(): an exported program's batch is a symbol, which len() would fix
        bytes_per_image = 4 * self.family.heads * tokens.shape[1] ** 2  # float32
        return max(1, CACHE_BYTES // bytes_per_image)

    def _run_chunk(
        self,
        number: int,
        tokens: Tokens,
        plan: StagePlan,
        method: TokenMethod,
        seeds: Tensor | None,
        rows: Tensor | None,
    ) -> Tokens:
        """rows: the prefix tokens as attention leaves them, [B, P, D], where they attend to something else."""
        attended = self.architecture.attend(number, tokens, method.reads_for(plan, self.family.class_token))
        values = attended.output
        if rows is not None:
            values = torch.cat((rows, values[:, rows.shape[1] :]), dim=1)
        if method.drop == "block-end":
            values = self.architecture.feed_forward(number, values)
        signals = Signals(
            attention=attended.attention,
            query=attended.query,
            key=attended.key,
            value=attended.value,
            entering=tokens.values,
            leaving=values,
            prefix=self.family.prefix,
            class_token=self.family.class_token,
            depth=self.family.depth,
            seeds=seeds,
            class_row=attended.class_row,
        )
        left = method.reduce(tokens.with_values(values), signals, plan)
        if method.leaves_sizes(plan):
            exponent = method.size_exponent if method.proportional else 0.0
            left = replace(left, size_exponent=exponent, pooled_by_size=method.pooled_by_size)
        if method.drop == "block-end":
            return left
        return left.with_values(self.architecture.feed_forward(number, left.values))


def prune(model: nn.Module, schedule: Schedule | None = None, *, exact_savings: bool = True) -> PrunedViT:
    """`model` under `schedule`, in evaluation mode.

    exact_savings: False switches off what the schedule asks for: the last block then computes every token.
    Raises UnsupportedBackbone with the reason, or ScheduleError if the schedule does not fit.
    """
    return PrunedViT(model, schedule, exact_savings=exact_savings).eval()


def plan_stages(
    schedule: Schedule, architecture: Architecture, tokens: int | None = None
) -> dict[int, tuple[StagePlan, TokenMethod]]:
    """The stages that drop something, by block, with their methods.

    tokens: patch tokens that enter block 0; None for all of the backbone's. Raises ScheduleError if the backbone cannot
    run a stage.
    """
    family = architecture.family
    plans = {plan.block: plan for plan in schedule.plan(tokens or family.tokens, family.depth)}
    found = {}
    for i, stage in enumerate(schedule.stages):
        plan = plans.get(stage.block)
        if plan is None:
            continue
        name, options = schedule.method_of(stage)
        method = load_method(name, options)
        method.unmerge = method.unmerge and architecture.reads_members_from is not None
        if method.needs_class_token and not family.class_token:
            raise ScheduleError(
                f"method must not need a class token for this backbone, which has none, got {name}; "
                "use zero-tprune, tome, pitome, hatp or random"
            )
        if stage.block == family.depth - 1 and architecture.head_reads() is not None:
            raise ScheduleError(
                f"stages[{i}].block must be at most {family.depth - 2} for this backbone, whose head reads prefix "
                f"tokens alone: what other tokens are in the last block changes nothing, got {stage.block}"
            )
        found[plan.block] = (plan, method)
    return found


@torch.inference_mode()
def check_untouched(model: nn.Module, tolerance: float = UNTOUCHED_TOLERANCE) -> None:
    """Raise UnsupportedBackbone unless driving the blocks, opened ones too, gives the model's own logits.

    Compares two noise images in the model's dtype; `tolerance` is absolute, on logits, for float32.
    """
    driven = PrunedViT(model, UNTOUCHED).eval()
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *driven.family.image_shape, generator=generator).to(parameter)
    expected = model.eval()(images)
    tokens = Tokens(driven.embed(images))
    for number in range(driven.family.depth):
        attended = driven.architecture.attend(number, tokens, "attention")
        tokens = tokens.with_values(driven.architecture.feed_forward(number, attended.output))
    saving = PrunedViT(model).eval()
    for name, logits in (("driven", driven(images)), ("opened", driven.head(tokens)), ("last", saving(images))):
        error = (logits - expected).abs().max().item()
        if not error <= tolerance:
            raise UnsupportedBackbone(
                f"backbone's logits must be reproduced within {tolerance:g} by its {name} blocks, got a difference of "
                f"{error:.3g}; this model computes something that is not known here"
            )
