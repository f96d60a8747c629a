"""Schedules that papers published, scaled to a backbone's depth and number of tokens.

Token counts of a model of another depth or size are taken at equal shares of depth, as shares of its patch tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.stage import Stage

PAPER_DEPTH = 12
PAPER_STAGES = ((2, 0.9, 30), (5, 0.8, 5), (8, 0.7, 1))  # block, keep, page-rank iterations of Zero-TPrune on DeiT
PPT_BLOCKS, PPT_LEAVING, DEIT_TOKENS = (3, 6, 9), 50, 196  # PPT on DeiT: so many tokens leave in each stage

# Token counts that DiffRate learned (Chen et al., ICCV 2023, arXiv 2305.17997; github.com/OpenGVLab/DiffRate), class
# token included, by GFLOPs of their paper: left after pruning and after merging in each block.
DIFFRATE: dict[str, dict[str, str]] = {
    "deit-tiny": {
        "0.6": "197/197 196/187 180/167 157/139 130/114 107/90 86/76 73/66 63/57 51/45 40/37 3/3",
        "0.7": "197/197 196/196 194/192 180/158 150/133 123/103 98/88 82/72 68/64 60/58 52/49 3/3",
        "0.8": "197/197 197/196 196/190 186/172 166/154 147/125 117/107 103/96 92/84 80/78 74/70 3/3",
        "0.9": "197/197 197/196 196/194 190/188 182/172 166/147 141/129 125/115 113/107 105/103 99/96 3/3",
    },
    "deit-small": {
        "2.3": "197/197 192/180 168/156 143/127 121/109 105/98 92/80 74/66 62/52 45/37 33/31 3/3",
        "2.5": "197/197 192/186 174/160 156/133 131/119 115/107 111/96 99/82 76/66 50/43 39/37 3/3",
        "2.7": "197/197 196/188 182/170 160/147 141/131 127/119 115/109 105/96 88/76 66/54 49/45 3/3",
        "2.9": "197/197 196/194 190/176 168/156 150/141 139/133 129/121 117/107 99/88 78/64 58/56 3/3",
        "3.1": "197/197 197/196 194/186 180/164 160/150 147/141 137/133 129/121 115/103 92/78 76/68 3/3",
    },
    "deit-base": {
        "8.7": "197/197 192/178 172/162 156/141 131/115 107/96 90/78 72/60 56/47 33/21 17/13 3/3",
        "10.0": "197/197 194/186 182/174 168/156 148/137 129/117 113/105 101/90 82/66 49/31 25/19 3/3",
        "11.5": "197/197 197/197 197/192 188/178 170/158 154/145 139/127 123/111 107/94 72/50 43/35 3/3",
    },
}


def staged(method: str, blocks: Sequence[int], counts: Sequence[int], tokens: int, **fields: Any) -> list[Stage]:
    """Stages that leave `counts` patch tokens behind `blocks`; those that would leave all of them are left out.

    fields: of every stage, or a sequence with one value each. Raises ScheduleError where a count is below what the
    method can leave.
    """
    stages: list[Stage] = []
    for i, (block, count) in enumerate(zip(blocks, counts, strict=True)):
        if count >= tokens:
            continue
        if count < max(1, int(tokens * METHODS[method].least_keep)):
            raise ScheduleError(f"{method} cannot leave {count} of {tokens} tokens in block {block}")
        given = {name: value[i] if isinstance(value, list | tuple) else value for name, value in fields.items()}
        keep = (count + 0.5) / tokens  # int(tokens * keep) is the count, whatever the rounding
        stages.append(Stage(block, keep, **given, method=method))
        tokens = count
    return stages


def constant(method: str, r: int, depth: int, tokens: int, **fields: Any) -> list[Stage]:
    """r tokens leave in every block but the last, as ToMe is published; where a half is less, a half.

    The last block's class token has read all others when tokens could leave it.
    """
    counts, left = [], tokens
    for _ in range(depth - 1):
        left -= min(r, left // 2)
        counts.append(max(left, 1))
    return staged(method, range(depth - 1), counts, tokens, **fields)


def diffrate_counts(counts: str, depth: int, tokens: int, scale: float = 1.0) -> tuple[list[int], list[int]]:
    """For each block but the last, patch tokens left after pruning and after merging, of a row of DIFFRATE.

    scale: of what is left, from the first block that drops something on: below 1 more tokens leave than published.
    """
    pairs = [tuple(int(count) - 1 for count in pair.split("/")) for pair in counts.split()]
    published, whole = len(pairs), pairs[0][1]
    places = np.arange(1, published + 1) / published
    # the last block's row has no place here: its head reads the class token alone
    pruned, merged = (np.array([pair[i] for pair in pairs[:-1]], dtype=float) / whole for i in (0, 1))
    wanted = np.arange(1, depth) / depth
    lefts = [np.interp(wanted, places[:-1], part) for part in (pruned, merged)]
    if scale != 1:
        lefts = [np.where(part < 1, 1 - (1 - part) * _stretch(scale, lefts[1]), part) for part in lefts]
    after_pruning, after_merging = ([max(1, round(float(v) * tokens)) for v in part] for part in lefts)
    for i in range(1, len(after_merging)):
        after_pruning[i] = min(after_pruning[i], after_merging[i - 1])
        after_merging[i] = min(after_merging[i], after_pruning[i])
    return after_pruning, after_merging


def raised(counts: str, power: float) -> str:
    """A row of DIFFRATE with the shares of patch tokens that it leaves raised to a power: above 1 fewer are left."""
    pairs = [[int(count) - 1 for count in pair.split("/")] for pair in counts.split()]
    return " ".join(
        "/".join(str(max(1, round(DEIT_TOKENS * (left / DEIT_TOKENS) ** power)) + 1) for left in pair) for pair in pairs
    )


def _stretch(scale: float, merged: np.ndarray[Any, Any]) -> float:
    """What the shares that are gone are multiplied by, so that at the end `scale` times as much is left."""
    return float((1 - scale * merged[-1]) / (1 - merged[-1]))


def diffrate(
    counts: str, depth: int, tokens: int, scale: float = 1.0, method: str = "diffrate", **fields: Any
) -> list[Stage]:
    """A row of DIFFRATE as stages: of what leaves a block, the share that is merged is the similarity share."""
    after_pruning, after_merging = diffrate_counts(counts, depth, tokens, scale)
    shares, before = [], tokens
    for pruned, merged in zip(after_pruning, after_merging, strict=True):
        leaving = before - merged
        # a hair more, so that int(leaving * share) is the count
        shares.append(min(1.0, (pruned - merged + 0.01) / leaving) if leaving else 0.0)
        before = merged
    return staged(method, range(depth - 1), after_merging, tokens, **{"similarity_share": shares, **fields})


def ppt(depth: int, tokens: int, leaving: float = PPT_LEAVING / DEIT_TOKENS, method: str = "ppt") -> list[Stage]:
    """Three stages, in each of which this share of the patch tokens leaves; where a half is less, a half.

    Pooling merges in pairs, so of DeiT's last 96 tokens 48 are left, whether an image is pooled or pruned.
    """
    blocks = sorted({min(round(block * depth / PAPER_DEPTH), depth - 2) for block in PPT_BLOCKS})
    counts, left = [], tokens
    for _ in blocks:
        left -= min(round(tokens * leaving), left // 2)
        counts.append(left)
    return staged(method, blocks, counts, tokens)


def paper(depth: int) -> list[tuple[int, float, int]]:
    """Zero-TPrune's block, keep and iterations, its blocks scaled; none where a shallow backbone has no room."""
    blocks = [round(block * depth / PAPER_DEPTH) for block, _, _ in PAPER_STAGES]
    if len(set(blocks)) < len(blocks) or blocks[-1] > depth - 2:
        return []
    return [(block, keep, iterations) for block, (_, keep, iterations) in zip(blocks, PAPER_STAGES, strict=True)]
