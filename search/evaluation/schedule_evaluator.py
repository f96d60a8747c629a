"""Measuring schedules for one study: accuracy on its images, throughput on its device."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

import numpy as np
import torch

from pruning.backbones import Backbone
from pruning.schedule import Schedule
from search.config.objectives import LABELLED
from search.config.spec import StudySpec
from search.errors import SearchError
from search.evaluation.calibration import Calibration
from search.evaluation.calibrator import Calibrator
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import Bits, Evaluator, accuracy_of
from search.evaluation.image_sampling import ImageOrder, draw_order, unpack_strata
from search.evaluation.racing import Race, SequentialTest, estimate
from search.evaluation.reference import Seen, fidelity_of
from search.evaluation.regression_estimator import guess
from search.evaluation.speed_meter import SpeedMeter
from search.types import Accuracy, Fidelity, Measurement, PartialEvaluation, Setting, Throughput

Check = Callable[[], None]
log = logging.getLogger(__name__)
ITSELF = Fidelity(1.0, 0.0, 0.0, 0.0)  # of the dense model
PROBE_SHARE = 0.08  # of the search split, in whole batches, that the first look at a schedule sees ...
LARGEST_LOOK = 0.25  # ... and none is worth more: a split of few batches is not probed
LARGEST_PROBE = 0.5  # of the search split: what all looks at a schedule may see


def images_of_a_look(images: int, batch: int) -> int:
    """How many images of a split one look at a schedule sees; 0 where the split is too small for probes."""
    wanted = -(-int(PROBE_SHARE * images) // batch) * batch
    return wanted if wanted <= LARGEST_LOOK * images else 0


def _go_on() -> None:
    pass


class ScheduleEvaluator:
    """Measures schedules for one study on one device, once it is calibrated.

    context: what they run on.
    """

    def __init__(self, context: EvaluationContext) -> None:
        self.context = context
        self._calibrator = Calibrator(context)
        self._calibration: Calibration | None = None
        self._dense_correct: Bits | None = None

    @classmethod
    def open(cls, spec: StudySpec, known: Calibration | None = None) -> Self:
        """As `EvaluationContext.open`."""
        return cls(EvaluationContext.open(spec, known))

    @property
    def spec(self) -> StudySpec:
        return self.context.spec

    @property
    def backbone(self) -> Backbone:
        return self.context.backbone

    def key(self, schedule: Schedule) -> str:
        return self.context.key(schedule)

    def flops(self, schedule: Schedule) -> int:
        """Of one image, fvcore convention; microseconds."""
        return self.context.flops(schedule)

    # What is found out once

    def learn(self, others: Mapping[str, Calibration]) -> None:
        """Hear what other studies found out (see `Calibrator`)."""
        self._calibrator = Calibrator(self.context, others)

    def calibrate(self) -> Calibration:
        """What is found out before the dense model has run; once, however often it is asked."""
        if self._calibration is None:
            self.use(self._calibrator.calibrate())
        return self.calibration

    def stratify(self) -> Calibration:
        """The calibration, with what only the dense model's answers on the whole search split can tell."""
        if not self.calibration.strata:
            self._calibration, self._dense_correct = self._calibrator.stratify(self.calibration)
        return self.calibration

    def use(self, calibration: Calibration) -> None:
        """Take over what was found out before; what rested on another calibration in this process is given up.

        Raises SearchError if weights or images have changed since.
        """
        images = self.context.images
        hint = "; of several in one file, backbone.weights_key says which"
        for what, then, now in (
            ("weights", calibration.weights, self.backbone.fingerprint),
            ("images" + (" and texts" if images.texts else ""), calibration.images, images.fingerprint),
        ):
            if then != now:
                raise SearchError(
                    f"study {self.spec.name}: {what} must be those it was launched with (fingerprint {then}), "
                    f"got {now}; restore them, or launch under another name{hint if what == 'weights' else ''}"
                )
        before = self._calibration
        if before is not None and json.dumps(before.to_dict()) != json.dumps(calibration.to_dict()):
            for name in ("speed", "order", "_searcher", "_confirmer", "_probed"):
                self.__dict__.pop(name, None)
        self._calibration = calibration
        self.context.set_model(calibration.dtype)

    @property
    def calibration(self) -> Calibration:
        assert self._calibration is not None, "calibrate or use must come first"
        return self._calibration

    # How schedules are measured

    @cached_property
    def order(self) -> ImageOrder:
        """In which order schedules see the search split."""
        packed, images = self.calibration.strata, len(self.context.search_split)
        stratum = unpack_strata(packed) if packed else np.zeros(images, dtype=np.uint8)
        if len(stratum) != images:
            raise SearchError(
                f"study {self.spec.name}: the search split must hold the {len(stratum)} images it was launched with, "
                f"got {images}; some could not be decoded here, or then"
            )
        return draw_order(stratum, self.spec.racing.strata, self.spec.data.seed)

    @cached_property
    def _searcher(self) -> Evaluator:
        return self.context.evaluator(
            self.context.search_split,
            cache_bytes=int(self.spec.runtime.prefix_cache_gib * 2**30),
            order=self.order.positions,
            reference=self.context.search_reference,
        )

    @cached_property
    def _confirmer(self) -> Evaluator:
        """Of finalists: what is deployed answers, where that is not the model that was searched with."""
        split, is_deployed = self.context.confirm_split, self.spec.deployment is not None
        return self.context.evaluator(split, is_deployed, reference=self.context.reference(split))

    @cached_property
    def speed(self) -> SpeedMeter:
        """How fast schedules are."""
        return SpeedMeter(self.context, self.calibration)

    def measure_deployed(self, schedule: Schedule) -> Measurement:
        """Accuracy on the whole search split and throughput, both where the study is deployed."""
        split, reference = self.context.search_split, self.context.search_reference
        seen = self.context.evaluator(split, is_deployed=True, reference=reference).see(schedule)
        throughput = self.speed.time_finalist(schedule)
        return self._measurement(schedule, throughput, seen.correct, fidelity=fidelity_of(None, seen))

    def identity(self, schedule: Schedule) -> str:
        """Of what accuracy was measured on, whatever the study: weights, images, number format, schedule."""
        known = self.calibration
        kind = self.spec.objectives.accuracy
        parts = (self.backbone.identity, known.weights, known.images, known.dtype, kind, self.key(schedule))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def use_batch(self, share: float) -> None:
        """Evaluate with this share of the study's batch from now on; with another than before, caches are given up."""
        size = max(1, int(self.spec.runtime.batch_size * share))
        if size != self.context.batch_size:
            self.context.batch_size = size
            self.release()

    def release(self) -> None:
        """Give up what was cached on the device; it is found again when it is needed."""
        for name in ("_searcher", "_confirmer", "_probed"):
            self.__dict__.pop(name, None)
        if self.context.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _probed(self) -> dict[str, Seen]:
        """By key, what was made of the first images, in the order of the race: `measure` goes on from there."""
        return {}

    @property
    def probe_images(self) -> int:
        """How many images one look at a schedule sees; 0 where the split is too small for probes."""
        return images_of_a_look(len(self.context.search_split), self.context.batch_size)

    def probe(
        self, schedule: Schedule, looks: int, dense: Bits, others: Sequence[Bits] = (), check: Check = _go_on
    ) -> PartialEvaluation:
        """What the first images of the race say of a schedule, beside what other schedules got right.

        looks: so many times `probe_images`, earlier ones included; where that is more than LARGEST_PROBE, as many as
        that allows. dense, others: [M] correctness of the dense model, and of schedules on all images, in split order.
        check: as of `measure`.
        """
        key, positions = self.key(schedule), self.order.positions
        looks = min(looks, int(LARGEST_PROBE * len(self.order)) // self.probe_images)
        wanted = looks * self.probe_images

        def may_go_on(seen: Bits) -> bool:
            check()
            return len(seen) < wanted

        seen = self._probed.get(key)
        if seen is None or len(seen) < wanted:
            seen = self._probed[key] = self._searcher.see(schedule, may_go_on, seen)
        told = np.stack(others)[:, positions] if others else None
        accuracy, error = guess(self.order, seen.correct, dense[positions], told)
        fidelity = fidelity_of(self.order, seen)
        if fidelity is None:
            return PartialEvaluation(schedule, accuracy, error, len(seen), looks)
        divergence = fidelity.divergence, fidelity.divergence_error
        return PartialEvaluation(schedule, accuracy, error, len(seen), looks, *divergence)

    def measure(
        self,
        schedule: Schedule,
        throughput: Throughput,
        race: Race | None = None,
        check: Check = _go_on,
        chosen_on: int = 0,
    ) -> Measurement:
        """Accuracy on the search split: on all of it, or until `race` says that it cannot reach the front.

        check: called after every batch but the last; what it raises ends the evaluation. chosen_on: how many of the
        first images the schedule was chosen for; they are no evidence in the race.
        """
        if self._dense_correct is not None and self.context.is_untouched(schedule):
            found = self._measurement(schedule, throughput, self._dense_correct)
            self.warn_at_chance(found.accuracy)
            return found
        order = self.order
        lap = SequentialTest(order, race, chosen_on)

        def may_go_on(seen: Bits) -> bool:
            check()
            return lap.may_go_on(seen)

        seen = self._searcher.see(schedule, may_go_on, self._probed.get(self.key(schedule)))
        correct = np.zeros(len(order), dtype=bool)
        correct[order.positions[: len(seen)]] = seen.correct
        fidelity = fidelity_of(order, seen)
        if len(seen) == len(order):
            return self._measurement(schedule, throughput, correct, fidelity=fidelity)
        assert race is not None
        value, low, high = estimate(order, seen.correct, race.dense[order.positions], chosen_on)
        kind = self.spec.objectives.accuracy
        partial = Accuracy(value=value, low=low, high=high, images=len(seen), kind=kind)
        return self._measurement(schedule, throughput, correct, partial, fidelity)

    def bits(self, measurement: Measurement) -> Bits:
        """[images] correctness in split order, of a measurement on the whole search split."""
        packed = np.frombuffer(measurement.correct, dtype=np.uint8)
        return np.unpackbits(packed, count=len(self.context.search_split)).astype(bool)

    def confirm(self, schedule: Schedule, throughput: Throughput) -> Measurement:
        """Accuracy on the whole confirm split, beside a throughput that is known."""
        seen = self._confirmer.see(schedule)  # in the order of the split
        fidelity = fidelity_of(None, seen)
        found = self._measurement(schedule, throughput, seen.correct, fidelity=fidelity)
        if self.spec.deployment is None or self.context.is_untouched(schedule):
            return found
        model = self.context.evaluator(self.context.confirm_split).see(schedule)
        return replace(found, model_accuracy=float(model.correct.mean()))

    def _measurement(
        self,
        schedule: Schedule,
        throughput: Throughput,
        correct: Bits,
        partial: Accuracy | None = None,
        fidelity: Fidelity | None = None,
    ) -> Measurement:
        """partial: the accuracy if not all images were seen; those not seen are False in `correct`."""
        if self.context.is_untouched(schedule):
            fidelity = ITSELF
        return Measurement(
            schedule=schedule,
            key=self.key(schedule),
            accuracy=partial or accuracy_of(correct, self.spec.objectives.accuracy),
            throughput=throughput,
            flops=self.flops(schedule),
            setting=self.setting,
            correct=np.packbits(correct).tobytes(),
            complete=partial is None,
            identity=self.identity(schedule),
            fidelity=fidelity,
        )

    def warn_at_chance(self, accuracy: Accuracy) -> None:
        """Say so where no more answers are right than guessing gives, and what is the likely reason."""
        classes = self.context.readout.classes
        if accuracy.kind in LABELLED and classes and accuracy.low <= 1 / classes:
            log.warning(
                "%s of %d images are right, no more than guessing among %d classes gives: the weights may be untrained "
                "or of other classes (backbone.weights, weights_key), the labels other classes than these (%s), or the "
                "images another kind",
                f"{accuracy.value:.2%}",
                accuracy.images,
                classes,
                self.context.images.classes,
            )

    @property
    def setting(self) -> Setting:
        return Setting(self.context.hardware, self.calibration.dtype, self.context.batch_size)
