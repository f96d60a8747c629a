"""Keep what is attended to and has large values, and one mean token of the rest.

Source: Eliopoulos, Jajal, Davis, Liu, Thiruvathukal, Lu, "Pruning One More Token is Enough: Leveraging
Latency-Workload Non-Linearities for Vision Transformers on the Edge", WACV 2025, arXiv 2407.05941: one stage, whose
keep is chosen by the hardware's latency (here the search does that), a score of attention and value norm, and a token
that stands for those removed:

    a_x = sum_y max_h A_h(y, x) over patch tokens y;  v_x = |V_x|, all heads' values of x side by side;
    score(x) = a_x / sum a + v_x / sum v;  the lowest are replaced by their mean.

That each part is divided by its sum, so that both weigh alike, is our reading. The mean token is one of the K, at the
place of the highest-scored token that it stands for. No class token is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.merging import fuse_rest
from pruning.methods.base import Signals, TokenMethod
from pruning.selection import keep_highest
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class MeanTokenPruning(TokenMethod):
    """Sums and norms only: the stage adds no multiply-adds."""

    fuses = True

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return keep_highest(self._scores(signals), plan.kept)

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        ranked = self._scores(signals).argsort(dim=-1, descending=True, stable=True)
        return fuse_rest(tokens, ranked, plan.kept, None, signals.prefix)

    def _scores(self, signals: Signals) -> Tensor:
        """[B, n] float32."""
        assert signals.attention is not None
        prefix = signals.prefix
        attended = signals.attention[:, :, prefix:, prefix:].amax(1).sum(1)  # [B, n]
        values = signals.value[:, :, prefix:].transpose(1, 2).flatten(2).float()  # [B, n, H d]
        norms = torch.linalg.vector_norm(values, dim=-1)
        scores: Tensor = attended / attended.sum(-1, keepdim=True) + norms / norms.sum(-1, keepdim=True)
        return scores
