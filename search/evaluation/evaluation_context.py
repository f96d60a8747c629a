"""What schedules of one study run on: backbone, images, device, number format; and the facts found out about them.

The facts that must be the same for every trial (`Calibration`) are found out once, by whoever launches the study, and
kept with it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pruning.architectures import Family
from pruning.backbones import Backbone, load_backbone
from pruning.flops import FlopCounter, trace_flops
from pruning.methods import METHODS, REVISION, load_method
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.objectives import AGREEING, PROMPT
from search.config.space import smallest
from search.config.spec import StudySpec, make_spec
from search.errors import SearchError
from search.evaluation.calibration import Calibration, choose_dtype
from search.evaluation.class_texts import embed_classes
from search.evaluation.data.splits import Images, Split, open_images
from search.evaluation.deployed import DeployedModel
from search.evaluation.device import DTYPES, choose_device, describe_device, machine_key
from search.evaluation.evaluator import NO_CLASS, Bits, Evaluator
from search.evaluation.image_sampling import pack_strata, stratify, unpack_strata
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.latency_profiler import images_of_a_pass, measure_profile
from search.evaluation.profile_cases import StageKind, stage_kinds
from search.evaluation.readouts import Features, ImageLikeness, Logits, NearestNeighbours, Readout, TextLikeness
from search.evaluation.reference import DenseReference
from search.evaluation.runtimes import FLOAT32, INT8
from search.evaluation.throughput import PairedTiming, Waiting, disturbed_by, time_pairs, tries

PROFILE_POINTS = 4  # token counts of a profile in another runtime: each costs an export or more, of seconds
UNPRUNED = Schedule(exact_savings=True)  # opened at the deployment's precision: what it is worth without pruning


class EvaluationContext:
    """One study's backbone and images on one device."""

    def __init__(self, spec: StudySpec, backbone: Backbone, images: Images, device: torch.device) -> None:
        self.spec, self.backbone, self.images, self.device = spec, backbone, images, device
        self._batch_size = spec.runtime.batch_size
        self._facts: Calibration | None = None
        self._model: PrunedViT | None = None
        self._dense_correct: Bits | None = None
        self._others: Mapping[str, Calibration] = {}

    @classmethod
    def open(cls, spec: StudySpec, known: Calibration | None = None) -> Self:
        """Load the backbone and list the images; decode and run nothing yet.

        known: what the study found out before: it keeps to the weights of a file that it began with.
        Raises UnsupportedBackbone, WeightsError, or InputError.
        """
        device = choose_device("cpu" if spec.deployed else spec.runtime.device)
        options = spec.backbone.loading
        if known is not None and spec.backbone.weights_key is None:
            options["weights_key"] = known.weights_key or None
        backbone = load_backbone(spec.backbone.name, spec.backbone.weights, **options)
        spec = for_backbone(spec, backbone.family)
        return cls(spec, backbone, open_images(spec.data, spec.objectives, backbone), device)

    # What is found out once

    def learn(self, others: Mapping[str, Calibration]) -> None:
        """Hear what other studies found out, by their names, newest first: what holds here is not found out again.

        Of those whose profile would hold here the first decides; one without a profile says that it was not right.
        """
        self._others = others

    def find_facts(self) -> Calibration:
        """Choose the number format, check the FLOP counter, and take the profile; once, however often it is asked."""
        if self._facts is not None:
            return self._facts
        dtype, reason = self._choose_dtype()
        self._model = self.cast(dtype)
        closed, traced = self.flops(UNTOUCHED), trace_flops(self.backbone.model, UNTOUCHED)
        if closed != traced:
            raise SearchError(
                f"backbone {self.backbone.name}: closed form {closed} FLOPs, fvcore {traced}; report this"
            )
        profile, origin, key, disturbed = None, "", "", ""
        if self.spec.objectives.throughput == "measured":
            timing = self.time_pairs(UNTOUCHED)
            dense, disturbed = timing.dense_images_per_s, timing.disturbed
        else:
            key = self._profile_key(dtype)
            known = self._profile_elsewhere(key)
            if known:
                profile, origin = known
            else:
                profile, disturbed = self._measure_profile()
            dense = profile.predict(UNTOUCHED).images_per_s
        self.use(
            Calibration(
                dtype=dtype,
                dtype_reason=reason,
                hardware=self.hardware,
                weights=self.backbone.fingerprint,
                weights_key=self.backbone.weights_key,
                images=self.images.fingerprint,
                dense_images_per_s=dense,
                profile=profile.to_dict() if profile else None,
                profile_key="" if disturbed else key,  # no other study takes over a disturbed one
                profile_from=origin,
                disturbed=disturbed,
                dense_latency=self._dense_latency(),
            )
        )
        return self.facts

    def _choose_dtype(self) -> tuple[str, str]:
        if self.spec.deployed is not None:
            precision = self.spec.deployed.precision
            return ("float32" if precision == INT8 else precision), "of the deployment"
        return choose_dtype(self.spec.runtime, self.cast, self.search_split, self.device)

    def find_strata(self) -> Calibration:
        """The facts, with what only the dense model's answers on the whole search split can tell."""
        if not self.facts.strata:
            key = self._strata_key()
            strata = self._strata_elsewhere(key) or pack_strata(self._stratify())
            self._facts = replace(self.facts, strata=strata, strata_key=key)
        return self.facts

    # What other studies found out

    def _profile_key(self, dtype: str) -> str:
        """Of all that a latency profile depends on, but for methods and token counts (see `LatencyProfile.covers`)."""
        runtime, saves = self._where, self.spec.space.exact_savings
        machine = machine_key(self.device)
        return _digest(
            self.backbone.identity, dtype, self._timed_batch, runtime, self.hardware, machine, REVISION, saves
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

    def _strata_key(self) -> str:
        facts, kind = self.facts, self.spec.objectives.accuracy
        return _digest(self.backbone.identity, facts.weights, facts.images, facts.dtype, kind, self.spec.racing.strata)

    def _strata_elsewhere(self, key: str) -> str:
        """Strata of just these images, "" if there are none. The dense model's answers are in the store then, too."""
        for facts in self._others.values():
            if facts.strata_key == key and len(unpack_strata(facts.strata)) == len(self.search_split):
                return facts.strata
        return ""

    # How it runs

    def use(self, facts: Calibration) -> None:
        """Take over what was found out before. Raises SearchError if weights or images have changed since."""
        for what, then, now in (
            ("weights", facts.weights, self.backbone.fingerprint),
            ("images" + (" and texts" if self.images.texts else ""), facts.images, self.images.fingerprint),
        ):
            if then != now:
                raise SearchError(
                    f"study {self.spec.name}: {what} must be those it was launched with (fingerprint {then}), "
                    f"got {now}; restore them, or launch under another name"
                )
        self._facts = facts
        self.set_model(facts.dtype)

    def set_model(self, dtype: str) -> None:
        """Run the model in this number format from now on."""
        model = self.cast(dtype)
        if model is not self._model:
            self.__dict__.pop("readout", None)  # whose gallery is what the other one made of it
        self._model = model

    def _stratify(self) -> NDArray[np.uint8]:
        """Run the dense model over the search split; its answers are kept, since it is the first trial too."""
        evaluator = self._evaluator(self.model, self.search_split, reference=self._search_reference)
        classes, margins = evaluator.dense()
        agrees = self.spec.objectives.accuracy in AGREEING
        right = np.ones(len(classes), dtype=bool) if agrees else classes == self.search_split.labels
        self._dense_correct = right & (classes != NO_CLASS)
        return stratify(margins, ~self._dense_correct, self.spec.racing.strata)

    @property
    def facts(self) -> Calibration:
        assert self._facts is not None, "find_facts or use must come first"
        return self._facts

    @property
    def model(self) -> PrunedViT:
        assert self._model is not None, "find_facts or use must come first"
        return self._model

    def cast(self, dtype: str) -> PrunedViT:
        """The model on the device in a number format; the loaded float32 backbone stays as it is."""
        if self._model is not None and next(self._model.parameters()).dtype == DTYPES[dtype]:
            return self._model
        return PrunedViT(copy.deepcopy(self.backbone.model).to(self.device, DTYPES[dtype])).eval()

    def _evaluator(self, model: PrunedViT, split: Split, kind: str = "", **options: Any) -> Evaluator:
        kind = kind or self.spec.objectives.accuracy
        return Evaluator(model, split, kind, self._batch_size, self.device, readout=self.readout, **options)

    @cached_property
    def readout(self) -> Readout:
        """How class scores come of what the model says; with a gallery, by the dense model's features of it."""
        objectives, images = self.spec.objectives, self.images
        if images.texts is not None:
            embeddings = images.texts.embeddings
            if embeddings is None:
                embeddings = embed_classes(images.texts.names, objectives.prompt or PROMPT, self.backbone)
            return TextLikeness(embeddings.to(self.device))
        if not objectives.least_gallery:
            return Logits(self.backbone.num_classes)
        gallery = images.gallery()
        plain = Evaluator(self.model, gallery, "agreement", self._batch_size, self.device, readout=Features(0))
        features = plain.scores(UNTOUCHED)
        if objectives.accuracy == "embedding":  # which of two equal images is nearer would be decided by rounding
            return ImageLikeness(features[torch.from_numpy(gallery.distinct()).to(features.device)])
        assert gallery.labels is not None
        assert images.source.classes.indices is not None
        classes = int(images.source.classes.indices.max()) + 1
        return NearestNeighbours(features, torch.from_numpy(gallery.labels), classes, objectives.neighbours)

    @cached_property
    def _search_reference(self) -> DenseReference | None:
        return self._reference(self.search_split)

    def _reference(self, split: Split) -> DenseReference | None:
        classes = self.readout.classes
        return DenseReference(len(split), classes) if classes and DenseReference.fits(len(split), classes) else None

    @property
    def _where(self) -> str:
        """How speed is found out, in the words of the study."""
        deployed = self.spec.deployed
        return self.spec.objectives.throughput if deployed is None else str(deployed)

    @property
    def _timed_batch(self) -> int:
        return self.spec.deployed.batch_sizes[0] if self.spec.deployed is not None else self._batch_size

    def timing_images(self, size: int | None = None) -> torch.Tensor:
        """A full batch [B, C, H, W] on the device, of the size that speed is searched for if none is given."""
        size = size or self._timed_batch
        images = self.search_split.batch(0, min(size, len(self.search_split)))
        repeats = -(-size // len(images))  # a split smaller than a batch is timed on full batches too
        return images.repeat(repeats, 1, 1, 1)[:size].to(self.device)

    def _fewest(self) -> int:
        """Patch tokens that the cheapest schedule of the space leaves."""
        family = self.backbone.family
        plans = smallest(self.spec.space, family.depth, self.flops).plan(family.tokens)
        return plans[-1].kept if plans else family.tokens

    def _measure_profile(self) -> tuple[LatencyProfile, str]:
        """The profile, and why it cannot be relied on, "" if it can; taken again if other work disturbed it."""
        deployed = self._deployed
        runtime: dict[str, Any] = {"prepare": deployed.prepare, "points": PROFILE_POINTS} if deployed else {}
        images = self.timing_images()
        images = images[: images_of_a_pass(self.model, images)]
        for _ in range(tries()):
            waiting = Waiting(self.device)
            profile = measure_profile(self.model, images, self._stage_kinds(), self._fewest(), **runtime)
            disturbed = disturbed_by(waiting.share())
            if not disturbed:
                break
        if deployed is None or deployed.deployment.precision == FLOAT32:
            return profile, disturbed
        timing = deployed.time(UNPRUNED, self.timing_images())
        gain = timing.speedup * profile.latency_ms(UNPRUNED) / profile.latency_ms(UNTOUCHED)
        return replace(profile, gain=gain), disturbed or timing.disturbed

    def _dense_latency(self) -> dict[str, Any] | None:
        if self._deployed is None or self.spec.deployment is None:
            return None
        return asdict(self._deployed.latency(UNTOUCHED, self.timing_images()))

    def _stage_kinds(self) -> list[StageKind]:
        space = self.spec.space
        return stage_kinds(space.methods, space.options, self.model)

    # What it is made of

    @cached_property
    def search_split(self) -> Split:
        return self.images.search()

    @cached_property
    def confirm_split(self) -> Split:
        return self.images.confirm()

    def key(self, schedule: Schedule) -> str:
        return schedule.key_for(self.backbone.family.tokens)

    def is_untouched(self, schedule: Schedule) -> bool:
        """Whether it leaves the model as it is; exact savings do not."""
        return self.key(schedule) == UNTOUCHED.key

    def flops(self, schedule: Schedule) -> int:
        """Of one image, fvcore convention; microseconds."""
        return self._flops.count(schedule)

    @cached_property
    def _flops(self) -> FlopCounter:
        return FlopCounter(self.backbone.model)

    def time_pairs(self, schedule: Schedule) -> PairedTiming:
        """Against the dense model, in the runtime that the study asks for."""
        if self._deployed is not None:
            return self._deployed.time(schedule, self.timing_images())
        return time_pairs(self.model, schedule, self.timing_images())

    @cached_property
    def _deployed(self) -> DeployedModel | None:
        """What runs where the study's models are deployed; None if that is not elsewhere."""
        if self.spec.deployed is None:
            return None
        plain = PrunedViT(self.backbone.model).eval()
        return DeployedModel(plain, self.spec.deployed, lambda count: self.search_split.batch(0, count))

    @property
    def hardware(self) -> str:
        """What speeds hold for: the device, and what runs on it if that is not torch."""
        if self._deployed is None:
            return describe_device(self.device)
        return f"{describe_device(self.device)}, {self._deployed.describe()}"


def for_backbone(spec: StudySpec, family: Family) -> StudySpec:
    """The study with the methods that the backbone can run, where it names none: some need a class token."""
    space = spec.space
    if family.class_token or set(space.methods) != set(METHODS):
        return spec
    able = [name for name in space.methods if not load_method(name, {}).needs_class_token]
    options = {name: values for name, values in space.options.items() if name in able}
    chosen = {**spec.to_dict()["space"], "methods": able, "options": options, "mixed": space.mixed}
    return make_spec({**spec.to_dict(), "space": chosen}, spec.name)


def _digest(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
