"""`PrunedViT`: a timm vision transformer that drops tokens by a schedule.

Drives the backbone's own blocks; blocks that no stage follows run untouched, with fused attention. Knows
schedules and methods. Ignores where weights come from and how accuracy is measured.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.errors import ScheduleError, UnsupportedBackbone
from pruning.families import Family, describe, embed, head, open_block
from pruning.methods import load_method
from pruning.methods.base import Signals, TokenMethod
from pruning.schedule import Schedule
from pruning.selection import image_seeds
from pruning.stage import StagePlan

CACHE_BYTES = 8 * 2**20  # of attention at once; on the demo 2 to 7 MiB took 114 to 130 ms a stage, 23 MiB took 170 ms
UNTOUCHED_TOLERANCE = 1e-4  # float32 logits; fused and opened attention differ by rounding alone


class PrunedViT(nn.Module):
    """`backbone` under `schedule`. The backbone is neither copied nor changed; its state_dict keys gain "backbone."."""

    def __init__(self, backbone: nn.Module, schedule: Schedule | None = None) -> None:
        """Raises UnsupportedBackbone, or ScheduleError if the schedule does not fit the backbone."""
        super().__init__()
        self.family: Family = describe(backbone)
        self.backbone = backbone
        self.schedule = schedule or Schedule()

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
                "use zero-tprune or random"
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
        """Images [B, C, H, W] -> tokens [B, N, D] entering block 0."""
        dtype = next(self.backbone.parameters()).dtype
        return embed(self.backbone, images.to(dtype))

    def run_blocks(
        self, tokens: Tensor, start: int = 0, stop: int | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Tokens [B, N, D] entering block `start` -> tokens leaving block `stop` - 1, stages included."""
        stop = self.family.depth if stop is None else stop
        for index in range(start, stop):
            block = self.backbone.get_submodule(f"blocks.{index}")
            plan = self._plans.get(index)
            tokens = block(tokens) if plan is None else self.run_stage(block, tokens, plan, seeds)
        return tokens

    def head(self, tokens: Tensor) -> Tensor:
        """Tokens leaving the last block -> logits [B, classes]."""
        return head(self.backbone, tokens)

    def run_stage(self, block: nn.Module, tokens: Tensor, plan: StagePlan, seeds: Tensor | None) -> Tensor:
        """One block and the stage after it: tokens [B, N, D] -> [B, P + K, D]."""
        expected = plan.tokens + self.family.prefix
        if tokens.shape[1] != expected:
            raise ScheduleError(f"block {plan.block} must get {expected} tokens, got {tokens.shape[1]}")
        size = self._images_at_once(tokens)
        if size >= tokens.shape[0]:
            return self._run_chunk(block, tokens, plan, seeds)
        pieces = [None] * len(tokens) if seeds is None else torch.split(seeds, size)
        chunks = zip(torch.split(tokens, size), pieces, strict=False)
        return torch.cat([self._run_chunk(block, chunk, plan, piece) for chunk, piece in chunks])

    def _images_at_once(self, tokens: Tensor) -> int:
        """How many images a stage takes at once: on a CPU, as many as have their attention in the cache together.

        Each vote reads the whole attention once more. On two cores of an EPYC this makes a stage 1.5 times as fast
        for a batch of 50 images (tests/benchmarks/stage.py).
        """
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tokens.device.type != "cpu" or tracing or torch.compiler.is_compiling():
            return tokens.shape[0]  # not len(): an exported program's batch is a symbol, which len() would fix
        bytes_per_image = 4 * self.family.heads * tokens.shape[1] ** 2  # float32
        return max(1, CACHE_BYTES // bytes_per_image)

    def _run_chunk(self, block: nn.Module, tokens: Tensor, plan: StagePlan, seeds: Tensor | None) -> Tensor:
        left, opened = open_block(block, tokens)
        signals = Signals(
            attention=opened.attention,
            query=opened.query,
            key=opened.key,
            value=opened.value,
            entering=tokens,
            prefix=self.family.prefix,
            class_token=self.family.class_token,
            seeds=seeds,
        )
        return self._method.reduce(left, signals, plan)


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
    tokens = driven.embed(images)
    for block in driven.backbone.get_submodule("blocks").children():
        tokens, _ = open_block(block, tokens)
    for name, logits in (("driven", driven(images)), ("opened", driven.head(tokens))):
        error = (logits - expected).abs().max().item()
        if not error <= tolerance:
            raise UnsupportedBackbone(
                f"backbone's logits must be reproduced within {tolerance:g} by its {name} blocks, got a difference of "
                f"{error:.3g}; this model computes something that is not known here"
            )
