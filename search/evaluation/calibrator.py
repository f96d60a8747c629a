"""Finding out, once a study, what must be the same for all of its trials: see `Calibration`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.flops import trace_flops
from pruning.methods import REVISION
from pruning.schedule import UNTOUCHED, Schedule
from search.config.objectives import AGREEING
from search.config.space import smallest
from search.errors import SearchError
from search.evaluation.calibration import Calibration, choose_dtype
from search.evaluation.device import machine_key
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import NO_CLASS, Bits
from search.evaluation.image_sampling import pack_strata, stratify, unpack_strata
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.latency_profiler import images_of_a_pass, measure_profile
from search.evaluation.profile_cases import StageKind, stage_kinds
from search.evaluation.runtimes import FLOAT32, INT8
from search.evaluation.throughput import tries, undisturbed
from search.types import Latency

PROFILE_POINTS = 4  # token counts of a profile in another runtime: each costs an export or more, of seconds
UNPRUNED = Schedule(exact_savings=True)  # opened at the deployment's precision: what it is worth without pruning


class Calibrator:
    """Calibrates one study; what others of the store found out and holds here is not found out again.

    others: by the names of their studies, newest first. Of those whose profile would hold here the first decides; one
    without a profile says that it was not right.
    """

    def __init__(self, context: EvaluationContext, others: Mapping[str, Calibration] | None = None) -> None:
        self._context, self._others = context, others or {}

    def calibrate(self) -> Calibration:
        """Choose the number format, check the FLOP counter, and take the profile."""
        context = self._context
        dtype, reason = self._choose_dtype()
        context.set_model(dtype)
        closed, traced = context.flops(UNTOUCHED), trace_flops(context.backbone.model, UNTOUCHED)
        if closed != traced:
            raise SearchError(
                f"backbone {context.backbone.name}: closed form {closed} FLOPs, fvcore {traced}; report this"
            )
        profile, origin, key, disturbed = None, "", "", ""
        if context.spec.objectives.throughput == "measured":
            timing = context.time_pairs(UNTOUCHED)
            dense, disturbed = timing.dense_images_per_s, timing.disturbed
        else:
            key = self._profile_key(dtype)
            known = self._profile_elsewhere(key)
            if known:
                profile, origin = known
            else:
                profile, disturbed = self._measure_profile()
            dense = profile.predict(UNTOUCHED).images_per_s
        dense_latency = self._dense_latency()
        latency_disturbed = dense_latency.disturbed if dense_latency else ""
        return Calibration(
            dtype=dtype,
            dtype_reason=reason,
            hardware=context.hardware,
            weights=context.backbone.fingerprint,
            weights_key=context.backbone.weights_key,
            images=context.images.fingerprint,
            dense_images_per_s=dense,
            profile=profile.to_dict() if profile else None,
            profile_key="" if disturbed else key,  # no other study takes over a disturbed one
            profile_from=origin,
            disturbed=disturbed or latency_disturbed,
            dense_latency=asdict(dense_latency) if dense_latency else None,
        )

    def stratify(self, known: Calibration) -> tuple[Calibration, Bits | None]:
        """With what only the dense model's answers on the whole search split can tell; and which of them are right,
        None where its strata were found elsewhere and it has not run."""
        context = self._context
        key = _digest(
            *(context.backbone.identity, known.weights, known.images, known.dtype),
            *(context.spec.objectives.accuracy, context.spec.racing.strata),
        )
        for other in self._others.values():  # the dense model's answers are in the store then, too
            if other.strata_key == key and len(unpack_strata(other.strata)) == len(context.search_split):
                return replace(known, strata=other.strata, strata_key=key), None
        strata, correct = self._run_dense()
        return replace(known, strata=pack_strata(strata), strata_key=key), correct

    def _run_dense(self) -> tuple[NDArray[np.uint8], Bits]:
        """Strata of the search split, and where the dense model is right: it is the first trial, too."""
        context = self._context
        evaluator = context.evaluator(context.search_split, reference=context.search_reference)
        classes, margins = evaluator.dense()
        agrees = context.spec.objectives.accuracy in AGREEING
        right = np.ones(len(classes), dtype=bool) if agrees else classes == context.search_split.labels
        correct: Bits = right & (classes != NO_CLASS)
        return stratify(margins, ~correct, context.spec.racing.strata), correct

    def _choose_dtype(self) -> tuple[str, str]:
        context = self._context
        if context.spec.deployed is not None:
            precision = context.spec.deployed.precision
            return ("float32" if precision == INT8 else precision), "of the deployment"
        return choose_dtype(context.spec.runtime, context.cast, context.search_split, context.device)

    def _profile_key(self, dtype: str) -> str:
        """Of all that a latency profile depends on, but for methods and token counts (see `LatencyProfile.covers`)."""
        context, spec = self._context, self._context.spec
        where = spec.objectives.throughput if spec.deployed is None else str(spec.deployed)
        machine = machine_key(context.device)
        return _digest(
            *(context.backbone.identity, dtype, context.timed_batch, where, context.hardware, machine),
            *(REVISION, spec.space.exact_savings),
        )

    def _profile_elsewhere(self, key: str) -> tuple[LatencyProfile, str] | None:
        """A profile that holds here, and the study that took it."""
        for name, facts in self._others.items():
            if facts.profile_key == key:
                if facts.profile is None:
                    return None
                profile = LatencyProfile.from_dict(facts.profile)
                if profile.covers((kind.name for kind in self._stage_kinds()), self._fewest()):
                    return profile, facts.profile_from or name
        return None

    def _measure_profile(self) -> tuple[LatencyProfile, str]:
        """The profile, and why it cannot be relied on, "" if it can; taken again if other work disturbed it."""
        context, deployed = self._context, self._context.deployed
        runtime: dict[str, Any] = {"prepare": deployed.prepare, "points": PROFILE_POINTS} if deployed else {}
        images = context.timing_images()
        images = images[: images_of_a_pass(context.model, images)]
        profile, disturbed = undisturbed(
            context.device,
            lambda: measure_profile(context.model, images, self._stage_kinds(), self._fewest(), **runtime),
        )
        if deployed is None or deployed.deployment.precision == FLOAT32:
            return profile, disturbed
        timing = deployed.time(UNPRUNED, context.timing_images())
        gain = timing.speedup * profile.latency_ms(UNPRUNED) / profile.latency_ms(UNTOUCHED)
        return replace(profile, gain=gain), disturbed or timing.disturbed

    def _dense_latency(self) -> Latency | None:
        """Of the untouched model where the study is deployed: limits are relative to it. Taken again if disturbed."""
        deployed = self._context.deployed
        if deployed is None or self._context.spec.deployment is None:
            return None
        for _ in range(tries()):
            latency = deployed.latency(UNTOUCHED, self._context.timing_images())
            if not latency.disturbed:
                break
        return latency

    def _stage_kinds(self) -> list[StageKind]:
        space = self._context.spec.space
        return stage_kinds(space.methods, space.options, self._context.model)

    def _fewest(self) -> int:
        """Patch tokens that the cheapest schedule of the space leaves."""
        context, family = self._context, self._context.backbone.family
        plans = smallest(context.spec.space, family.depth, context.flops).plan(family.tokens)
        return plans[-1].kept if plans else family.tokens


def _digest(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
