"""What the dense model answers, and how far others are from it: against slow, obvious formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.data.splits import Split
from search.evaluation.evaluator import Evaluator
from search.evaluation.image_sampling import draw_order
from search.evaluation.reference import DenseReference, Seen, fidelity_of

CPU = torch.device("cpu")
SCHEDULE = Schedule([Stage(2, 0.3), Stage(6, 0.4)])


def evaluator(backbone: Backbone, split: Split, reference: DenseReference | None, **options: object) -> Evaluator:
    return Evaluator(PrunedViT(backbone.model).eval(), split, "top1", 4, CPU, reference=reference, **options)  # type: ignore[arg-type]


def test_divergence_is_that_of_a_naive_sum(backbone: Backbone, split: Split) -> None:
    reference = DenseReference(13, 10)
    seen = evaluator(backbone, split, reference).see(SCHEDULE)
    with torch.inference_mode():
        images = split.batch(0, 13)
        dense = backbone.model(images).double().softmax(-1).numpy()
        pruned = PrunedViT(backbone.model, SCHEDULE).eval()(images).double().softmax(-1).numpy()
    assert seen.divergence == pytest.approx(
        [sum(p * np.log(p / q) for p, q in zip(*rows, strict=True)) for rows in zip(dense, pruned, strict=True)],
        abs=1e-5,
    )
    classes, labels = (dense.argmax(1), pruned.argmax(1)), np.asarray(split.labels)
    assert seen.agrees is not None
    assert seen.changed is not None
    assert seen.agrees.tolist() == (classes[0] == classes[1]).tolist()
    assert seen.changed.tolist() == ((classes[0] == labels) != (classes[1] == labels)).tolist()


@pytest.mark.parametrize("filled", [False, True])
def test_what_is_missing_is_filled_in_batch_by_batch(backbone: Backbone, split: Split, filled: bool) -> None:
    reference, order = DenseReference(13, 10), np.random.default_rng(0).permutation(13)
    if filled:
        evaluator(backbone, split, reference).dense()
        assert reference.knows(np.arange(13))
    tested = evaluator(backbone, split, reference, order=order)
    expected = evaluator(backbone, split, DenseReference(13, 10)).see(SCHEDULE)
    found = tested.see(SCHEDULE, lambda seen: len(seen) < 8)
    assert expected.divergence is not None
    assert found.divergence == pytest.approx(expected.divergence[order[:8]], abs=1e-5)
    assert reference.knows(order[:8])
    assert reference.knows(order[8:]) == filled
    whole = tested.see(SCHEDULE, before=found)  # goes on where it was stopped
    assert whole.divergence == pytest.approx(expected.divergence[order], abs=1e-5)


def test_the_dense_model_does_not_diverge_from_itself(backbone: Backbone, split: Split) -> None:
    seen = evaluator(backbone, split, DenseReference(13, 10)).see(UNTOUCHED)
    assert seen.divergence is not None
    assert seen.divergence == pytest.approx(np.zeros(13), abs=1e-6)


def test_answers_that_are_no_numbers_are_as_bad_as_knowing_nothing() -> None:
    reference = DenseReference(2, 4)
    reference.keep(np.arange(2), torch.tensor([[9.0, 0, 0, 0], [0, 0, 0, 0]]))
    _, divergence = reference.compare(np.arange(2), torch.full((2, 4), float("nan")))
    assert divergence == pytest.approx([np.log(4)] * 2)


class TestFidelity:
    def seen(self, images: int) -> Seen:
        random = np.random.default_rng(3)
        changed = random.random(images) < 0.1
        return Seen(~changed, ~changed, changed, random.exponential(0.1, images))

    def test_of_all_images_is_plain_means(self) -> None:
        seen = self.seen(400)
        assert seen.changed is not None
        assert seen.divergence is not None
        found = fidelity_of(None, seen)
        assert found is not None
        assert found.agreement == pytest.approx(1 - seen.changed.mean())
        assert found.divergence == pytest.approx(seen.divergence.mean())
        assert found.divergence_error == pytest.approx(seen.divergence.std() / 20)
        assert found.loss_error == pytest.approx(np.sqrt(seen.changed.mean() / 400))

    def test_of_some_images_estimates_the_whole(self) -> None:
        """Images are drawn with unequal chances, by strata in which divergence differs tenfold: over many orders the
        mean estimate is the mean of all images, and differs from it by what its error says."""
        images, stratum = 600, np.repeat(np.arange(10, dtype=np.uint8), 60)
        truth = np.random.default_rng(0).exponential(1.0, images) * np.where(stratum < 2, 0.5, 0.05)
        found, errors = [], []
        for seed in range(300):
            order = draw_order(stratum, 10, seed)
            part = truth[order.positions[:150]]
            fidelity = fidelity_of(order, Seen(part < 1, part < 1, part > 1, part))
            assert fidelity is not None
            found.append(fidelity.divergence)
            errors.append(fidelity.divergence_error)
        spread = np.std(found)
        assert np.mean(found) == pytest.approx(truth.mean(), abs=4 * spread / np.sqrt(300))
        assert 0.6 < np.mean(errors) / spread < 1.8

    def test_is_unknown_without_a_reference(self) -> None:
        assert fidelity_of(None, Seen(np.ones(3, bool))) is None
