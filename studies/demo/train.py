"""Train the demo backbone: a 12-block ViT on Fashion-MNIST, distilled from a small CNN, on CPU cores.

Three stages, each a row of ``RECIPE``: a CNN teacher, the ViT at patch 4 (49 tokens, cheap), and the same
ViT resampled to patch 2 (196 tokens, the shipped one). A stage whose file is in ``--out`` is not run again.
The script knows nothing of pruning: no token is ever dropped here, or pruning would look free later.
It chooses nothing by the test images: ``HELD_OUT`` train images serve the log, the test images the report.
Needs torch 2.9 or newer (``torch.optim.Muon``), more than the product itself.
"""

import argparse
import gzip
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

MEAN, STD = 0.2860, 0.3530  # of the train pixels / 255
HELD_OUT = 3000  # train images never trained on: +-1 point at 90%
LOG_EVERY, CHECK_EVERY = 50, 800  # steps

Batch = tuple[Tensor, Tensor]
Split = tuple[Batch, Batch]
Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Stage:
    """One row of the recipe."""

    name: str
    patch: int | None  # None is the CNN teacher
    start: str | None  # the stage whose weights it starts from
    epochs: float
    batch: int
    lr: float
    shift: int  # pixels, the largest random shift in each direction
    weight_decay: float = 0.05
    warmup: int = 200  # steps of linear warm-up, then cosine to zero
    soft: float = 0.7  # weight of the teacher's soft labels against the true ones
    temperature: float = 2.0


RECIPE = (
    Stage("teacher", None, None, epochs=6, batch=128, lr=4e-3, shift=2),
    Stage("patch4", 4, None, epochs=6, batch=64, lr=4e-3, shift=1, warmup=300),
    Stage("patch2", 2, "patch4", epochs=0.6, batch=64, lr=1.5e-3, shift=1, warmup=50),
)


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes as a uint8 tensor (format: the MNIST home page)."""
    with gzip.open(path) as file:
        raw = file.read()
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape).copy())


def read_split(folder: Path, name: str) -> Batch:
    """Images (n, 1, 28, 28) uint8 and labels (n,) int64; ``name`` is train or t10k."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    return images[:, None], read_idx(folder / f"{name}-labels-idx1-ubyte.gz").long()


def hold_out(data: Batch, seed: int) -> Split:
    """The train images split by seed into those trained on and ``HELD_OUT`` others."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed))
    kept, held = order[HELD_OUT:], order[:HELD_OUT]
    return (data[0][kept], data[1][kept]), (data[0][held], data[1][held])


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def augment(images: Tensor, shift: int) -> Tensor:
    """A random shift and a random horizontal flip for each image; the border is background (0)."""
    n, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4)[:, 0]  # n, height + 2 shift, width + 2 shift
    rows = torch.arange(height) + torch.randint(2 * shift + 1, (n, 1))
    cols = torch.arange(width) + torch.randint(2 * shift + 1, (n, 1))
    cols = torch.where(torch.rand(n, 1) < 0.5, cols, cols.flip(1))
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]][:, None]


def build_teacher() -> nn.Module:
    """A plain CNN of 0.3 M parameters: an image costs it a tenth of what it costs the ViT at patch 4."""

    def conv(before: int, after: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    body = conv(1, 32, 1) + conv(32, 64, 2) + conv(64, 64, 1) + conv(64, 128, 2) + conv(128, 128, 1)
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return net.to(memory_format=torch.channels_last)


def build_backbone(patch: int) -> VisionTransformer:
    """The demo's architecture, attention unfused: bfloat16 trains 1.5 to 2 times faster so on a CPU."""
    vit = VisionTransformer(
        img_size=28, patch_size=patch, in_chans=1, num_classes=10, embed_dim=96, depth=12, num_heads=3
    )
    for block in vit.blocks.children():
        block.attn.fused_attn = False  # type: ignore[union-attr]
    return vit


def resample(weights: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Weights of one patch size made to fit another: timm's own patch and position resampling."""
    grid = 28 // patch
    kernel = resample_patch_embed(weights["patch_embed.proj.weight"].float(), [patch, patch])
    places = resample_abs_pos_embed(weights["pos_embed"].float(), [grid, grid], num_prefix_tokens=1)
    return {**weights, "patch_embed.proj.weight": kernel, "pos_embed": places}


def build_optimizers(model: nn.Module, stage: Stage) -> Optimizers:
    """Muon for the blocks' matrices, AdamW for the rest; the teacher's convolutions are all AdamW's."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
    decayed = [p for name, p in named if not name.startswith("blocks.") and p.ndim >= 2]
    plain = [p for _, p in named if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    optimizers: Optimizers = [adam]
    if matrices:  # match_rms_adamw: steps as long as AdamW's, so one learning rate serves both
        decay, adjust = stage.weight_decay, "match_rms_adamw"
        optimizers.append(torch.optim.Muon(matrices, lr=stage.lr, weight_decay=decay, adjust_lr_fn=adjust))
    return optimizers


def rate_at(step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate: linear up to 1, then a half cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def distil(logits: Tensor, labels: Tensor, taught: Tensor | None, stage: Stage) -> Tensor:
    """Cross-entropy mixed with the teacher's soft labels (Hinton et al. 2015, section 2)."""
    hard = F.cross_entropy(logits, labels, label_smoothing=0.0 if taught is not None else 0.05)
    if taught is None:
        return hard
    heat = stage.temperature
    target = (taught / heat).log_softmax(-1)
    soft = F.kl_div((logits / heat).log_softmax(-1), target, reduction="batchmean", log_target=True)
    return (1 - stage.soft) * hard + stage.soft * heat**2 * soft


@torch.no_grad()
def count_correct(model: nn.Module, data: Batch, dtype: torch.dtype = torch.float32) -> int:
    """Images of ``data`` that the model classes right, in evaluation mode."""
    model.eval()
    correct = 0
    for images, labels in zip(torch.split(data[0], 100), torch.split(data[1], 100), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            correct += int((model(normalise(images)).argmax(-1) == labels).sum())
    model.train()
    return correct


def wilson(correct: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson interval of a proportion."""
    rate, spread = correct / total, z * z / total
    half = z * math.sqrt(rate * (1 - rate) / total + spread / (4 * total))
    return (rate + spread / 2 - half) / (1 + spread), (rate + spread / 2 + half) / (1 + spread)


def save(model: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Write the weights whole or not at all: a reader never sees half a file."""
    part = path.with_suffix(".part")
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, part)
    os.replace(part, path)


def take_step(model: nn.Module, teacher: nn.Module | None, batch: Batch, stage: Stage) -> float:
    """Gradients of one batch; the loss is returned."""
    images = normalise(augment(batch[0], stage.shift))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
        with torch.no_grad():
            taught = teacher(images) if teacher is not None else None
    loss = distil(logits.float(), batch[1], None if taught is None else taught.float(), stage)
    torch.autograd.backward(loss)
    return loss.item()


def update(optimizers: Optimizers, rate: float) -> None:
    """One step of each optimizer at learning rate ``rate``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def pick_batches(n: int, size: int) -> Iterator[Tensor]:
    """Indices of full batches, without end, each image once before any comes again."""
    order = torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < size:
            order = torch.cat([order, torch.randperm(n)])
        yield order[:size]
        order = order[size:]


def train(model: nn.Module, teacher: nn.Module | None, data: Split, stage: Stage, partial: Path) -> None:
    """Run one stage; what there is goes to ``partial`` at each check, and at the end."""
    images, labels = data[0]
    steps = int(stage.epochs * len(images)) // stage.batch
    optimizers = build_optimizers(model.train(), stage)
    losses, begun = [], time.time()
    for done, picked in enumerate(islice(pick_batches(len(images), stage.batch), steps), start=1):
        losses.append(take_step(model, teacher, (images[picked], labels[picked]), stage))
        update(optimizers, stage.lr * rate_at(done - 1, steps, stage.warmup))
        place = f"{stage.name} step {done}/{steps}"
        if done % LOG_EVERY == 0 or done == steps:
            recent, speed = losses[-LOG_EVERY:], done * stage.batch / (time.time() - begun)
            print(f"{place} loss {sum(recent) / len(recent):.4f} {speed:.0f} img/s", flush=True)
        if done % CHECK_EVERY == 0 or done == steps:
            right = count_correct(model, data[1], torch.bfloat16)
            print(f"{place} held-out top-1 {right / HELD_OUT:.2%}", flush=True)
            save(model, partial, torch.float32)


def load_teacher(path: Path) -> nn.Module:
    """The trained teacher, in evaluation mode."""
    teacher = build_teacher()
    teacher.load_state_dict(load_file(path))
    return teacher.eval()


def run_stage(stage: Stage, out: Path, data: Split, seed: int) -> None:
    """Train one stage, the ViT's from the stage before where there is one, and save it in ``out``."""
    torch.manual_seed(seed)
    teacher = None if stage.patch is None else load_teacher(out / "teacher.safetensors")
    model = build_teacher() if stage.patch is None else build_backbone(stage.patch)
    if stage.start is not None and stage.patch is not None:
        weights = load_file(out / f"{stage.start}.safetensors")
        model.load_state_dict(resample(weights, stage.patch))
    partial = out / f"{stage.name}-partial.safetensors"
    train(model, teacher, data, stage, partial)
    os.replace(partial, out / f"{stage.name}.safetensors")


def report(model: nn.Module, data: Batch, what: str) -> None:
    """Print top-1 in float32 with its 95% interval."""
    correct, total = count_correct(model, data), len(data[0])
    low, high = wilson(correct, total)
    print(f"{what}: top-1 {correct / total:.2%} [{low:.2%}, {high:.2%}], {correct} of {total}", flush=True)


def run_recipe(out: Path, data: Split, seed: int) -> VisionTransformer:
    """Every stage not yet run, in turn; returns the backbone as shipped, rounded to float16."""
    for stage in RECIPE:
        if not (out / f"{stage.name}.safetensors").exists():
            run_stage(stage, out, data, seed)
    backbone = build_backbone(2)
    weights = load_file(out / f"{RECIPE[-1].name}.safetensors")
    backbone.load_state_dict({key: value.half() for key, value in weights.items()})
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four gzipped IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages' weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = hold_out(read_split(args.data, "train"), args.seed)
    backbone = run_recipe(args.out, data, args.seed)
    save(backbone, args.out / "backbone.safetensors", torch.float16)
    report(backbone, data[1], "held-out train images")
    report(backbone, read_split(args.data, "t10k"), "test images")


if __name__ == "__main__":
    main()
