"""`PrunedViT`: a timm vision transformer that drops tokens by a schedule.

Drives the backbone's own blocks; blocks that no stage follows run untouched, with fused attention. Knows
schedules and methods. Ignores where weights come from and how accuracy is measured.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.errors import PruningError, ScheduleError, UnsupportedBackbone
from pruning.families import Architecture, Family, drive
from pruning.families.base import is_watched
from pruning.methods import load_method
from pruning.methods.base import Signals, TokenMethod
from pruning.schedule import Schedule
from pruning.selection import image_seeds
from pruning.stage import StagePlan
from pruning.tokens import Tokens

CACHE_BYTES = (
    4 * 2**20
)  # of attention at once: DeiT-S, 16 images, one core: 164 ms a stage; with 2 MiB 181, with 64 MiB 212
UNTOUCHED_TOLERANCE = 1e-4  # float32 logits; fused and opened attention differ by rounding alone


class PrunedViT(nn.Module):
    """`backbone` under `schedule`. The backbone is neither copied nor changed; its state_dict keys gain "backbone."."""

    def __init__(self, backbone: nn.Module, schedule: Schedule | None = None) -> None:
        """Raises UnsupportedBackbone, or ScheduleError if the schedule does not fit the backbone."""
        super().__init__()
        self.architecture: Architecture = drive(backbone)
        self.backbone = backbone
        self.schedule = schedule or Schedule()

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
        plans = schedule.plan(self.family.tokens, self.family.depth)
        method = load_method(schedule.method, schedule.options)
        if plans and method.needs_class_token and not self.family.class_token:
            raise ScheduleError(
                f"method must not need a class token for this backbone, which has none, got {schedule.method}; "
                "use zero-tprune, tome, pitome, hatp or random"
            )
        self._schedule = schedule
        self._method: TokenMethod = method
        self._plans = {plan.block: plan for plan in plans}

    @property
    def plans(self) -> tuple[StagePlan, ...]:
        """Token counts of the stages that drop something, by block."""
        return tuple(self._plans.values())

    @property
    def first_stage(self) -> int:
        """The first block that a stage follows; the depth if none does. The blocks before it are the dense model's."""
        return min(self._plans, default=self.family.depth)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W], cast to the weights' dtype -> logits [B, classes]."""
        seeds = self.seeds(images)
        return self.head(self.run_blocks(self.embed(images), seeds=seeds))

    def seeds(self, images: Tensor) -> Tensor | None:
        """What methods that draw at random need to know of the images; None if this one draws nothing."""
        return image_seeds(images) if self.draws else None

    @property
    def draws(self) -> bool:
        """Whether the schedule's method draws at random, and so needs `seeds`."""
        return self._method.draws and bool(self._plans)

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, D] entering block 0. Raises PruningError for another size."""
        if tuple(images.shape[1:]) != self.family.image_shape:  # some backbones would take them, with other tokens
            raise PruningError(
                f"images must be [B, {', '.join(map(str, self.family.image_shape))}], as the backbone was made for, "
                f"got {list(images.shape)}; create it with another img_size"
            )
        dtype = next(self.backbone.parameters()).dtype
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
        """Tokens entering block `start` -> tokens leaving block `stop` - 1, stages included."""
        for number in range(start, self.family.depth if stop is None else stop):
            plan = self._plans.get(number)
            if plan is None:
                tokens = self.architecture.run(number, tokens)
            else:
                tokens = self.run_stage(number, tokens, plan, seeds)
        return tokens

    def head(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] leaving the last block -> logits [B, classes]."""
        return self.architecture.head(tokens)

    def run_stage(self, number: int, tokens: Tokens, plan: StagePlan, seeds: Tensor | None) -> Tokens:
        """Block `number` with a stage: N tokens -> P + K."""
        expected, found = plan.tokens + self.family.prefix, tokens.values.shape[1]
        if found != expected:
            raise ScheduleError(f"block {plan.block} must get {expected} tokens, got {found}")
        size = self._images_at_once(tokens.values)
        if size >= tokens.values.shape[0]:
            return self._run_chunk(number, tokens, plan, seeds)
        chunks = tokens.split(size)
        pieces = [None] * len(chunks) if seeds is None else torch.split(seeds, size)
        return Tokens.join(
            [self._run_chunk(number, chunk, plan, piece) for chunk, piece in zip(chunks, pieces, strict=True)]
        )

    def _images_at_once(self, tokens: Tensor) -> int:
        """How many images a stage takes at once: on a CPU, as many as have their attention in the cache together.

        Each vote reads the whole attention once more. On two cores of an EPYC this makes a stage 1.5 times as fast
        for a batch of 50 images (tests/benchmarks/stage.py).
        """
        if tokens.device.type != "cpu" or is_watched(tokens) or self._method.reads != "attention":
            return tokens.shape[0]  # not len(): an exported program's batch is a symbol, which len() would fix
        bytes_per_image = 4 * self.family.heads * tokens.shape[1] ** 2  # float32
        return max(1, CACHE_BYTES // bytes_per_image)

    def _run_chunk(self, number: int, tokens: Tokens, plan: StagePlan, seeds: Tensor | None) -> Tokens:
        attended = self.architecture.attend(number, tokens, self._method.reads)
        signals = Signals(
            attention=attended.attention,
            query=attended.query,
            key=attended.key,
            value=attended.value,
            entering=tokens.values,
            prefix=self.family.prefix,
            class_token=self.family.class_token,
            depth=self.family.depth,
            seeds=seeds,
            class_row=attended.class_row,
        )
        between = tokens.with_values(attended.output)
        if self._method.drop == "before-mlp":
            left = self._method.reduce(between, signals, plan)
            return left.with_values(self.architecture.feed_forward(number, left.values))
        behind = between.with_values(self.architecture.feed_forward(number, between.values))
        return self._method.reduce(behind, signals, plan)


def prune(model: nn.Module, schedule: Schedule | None = None) -> PrunedViT:
    """`model` under `schedule`, in evaluation mode.

    Raises UnsupportedBackbone with the reason, or ScheduleError if the schedule does not fit.
    """
    return PrunedViT(model, schedule).eval()


@torch.inference_mode()
def check_untouched(model: nn.Module, tolerance: float = UNTOUCHED_TOLERANCE) -> None:
    """Raise UnsupportedBackbone unless driving the blocks, opened ones too, gives the model's own logits.

    Compares two noise images in the model's dtype; `tolerance` is absolute, on logits, for float32.
    """
    driven = PrunedViT(model).eval()
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *driven.family.image_shape, generator=generator).to(parameter)
    expected = model.eval()(images)
    tokens = Tokens(driven.embed(images))
    for number in range(driven.family.depth):
        attended = driven.architecture.attend(number, tokens, "attention")
        tokens = tokens.with_values(driven.architecture.feed_forward(number, attended.output))
    for name, logits in (("driven", driven(images)), ("opened", driven.head(tokens.values))):
        error = (logits - expected).abs().max().item()
        if not error <= tolerance:
            raise UnsupportedBackbone(
                f"backbone's logits must be reproduced within {tolerance:g} by its {name} blocks, got a difference of "
                f"{error:.3g}; this model computes something that is not known here"
            )
