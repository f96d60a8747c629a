"""What schedules of one study run on: backbone, images, device, number format, and where they are deployed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import torch

from pruning.architectures import Family
from pruning.backbones import Backbone, load_backbone
from pruning.flops import FlopCounter
from pruning.methods import METHODS, load_method
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.objectives import PROMPT
from search.config.spec import StudySpec, make_spec
from search.evaluation.calibration import Calibration
from search.evaluation.class_texts import embed_classes
from search.evaluation.data.splits import Images, Split, open_images
from search.evaluation.deployed import DeployedEvaluator, DeployedModel
from search.evaluation.device import DTYPES, choose_device, describe_device
from search.evaluation.evaluator import Evaluator
from search.evaluation.readouts import Features, ImageLikeness, NearestNeighbours, Readout, TextLikeness
from search.evaluation.reference import DenseReference
from search.evaluation.throughput import PairedTiming, time_pairs


class EvaluationContext:
    """One study's backbone and images on one device, in one number format at a time."""

    def __init__(self, spec: StudySpec, backbone: Backbone, images: Images, device: torch.device) -> None:
        self.spec, self.backbone, self.images, self.device = spec, backbone, images, device
        self.batch_size = spec.runtime.batch_size
        self._model: PrunedViT | None = None

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

    @cached_property
    def search_split(self) -> Split:
        return self.images.search()

    @cached_property
    def confirm_split(self) -> Split:
        return self.images.confirm()

    # How it runs

    @property
    def model(self) -> PrunedViT:
        assert self._model is not None, "the number format must be known first"
        return self._model

    def set_model(self, dtype: str) -> None:
        """Run the model in this number format from now on."""
        model = self.cast(dtype)
        if model is not self._model:
            self.__dict__.pop("readout", None)  # whose gallery is what the other one made of it
        self._model = model

    def cast(self, dtype: str) -> PrunedViT:
        """The model on the device in a number format; the loaded float32 backbone stays as it is."""
        if self._model is not None and next(self._model.parameters()).dtype == DTYPES[dtype]:
            return self._model
        return PrunedViT(copy.deepcopy(self.backbone.model).to(self.device, DTYPES[dtype])).eval()

    def evaluator(self, split: Split, is_deployed: bool = False, **options: Any) -> Evaluator:
        """Of the model here, or of what answers where the study is deployed. options: of `Evaluator`."""
        how = self.model, split, self.spec.objectives.accuracy, self.batch_size, self.device
        if not is_deployed:
            return Evaluator(*how, readout=self.readout, **options)
        assert self.deployed is not None
        return DeployedEvaluator(self.deployed, *how, readout=self.readout, **options)

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
            return Readout(self.backbone.num_classes)
        gallery = images.gallery()
        plain = Evaluator(self.model, gallery, "agreement", self.batch_size, self.device, readout=Features(0))
        features = plain.scores(UNTOUCHED)
        if objectives.accuracy == "embedding":  # which of two equal images is nearer would be decided by rounding
            return ImageLikeness(features[torch.from_numpy(gallery.distinct()).to(features.device)])
        assert gallery.labels is not None
        assert images.source.classes.indices is not None
        classes = int(images.source.classes.indices.max()) + 1
        return NearestNeighbours(features, torch.from_numpy(gallery.labels), classes, objectives.neighbours)

    @cached_property
    def search_reference(self) -> DenseReference | None:
        return self.reference(self.search_split)

    def reference(self, split: Split) -> DenseReference | None:
        classes = self.readout.classes
        return DenseReference(len(split), classes) if classes and DenseReference.fits(len(split), classes) else None

    # What schedules cost

    def key(self, schedule: Schedule) -> str:
        return schedule.key_for(self.backbone.family.tokens)

    def is_untouched(self, schedule: Schedule) -> bool:
        """Whether it leaves the model as it is; exact savings do not."""
        return self.key(schedule) == UNTOUCHED.key

    @cached_property
    def flops(self) -> Callable[[Schedule], int]:
        """Of one image, fvcore convention; microseconds."""
        return FlopCounter(self.backbone.model).count

    # Where speed counts

    @property
    def hardware(self) -> str:
        """What speeds hold for: the device, and what runs on it if that is not torch."""
        if self.deployed is None:
            return describe_device(self.device)
        return f"{describe_device(self.device)}, {self.deployed.describe()}"

    @cached_property
    def deployed(self) -> DeployedModel | None:
        """What runs where the study's models are deployed; None if that is not elsewhere."""
        if self.spec.deployed is None:
            return None
        plain = PrunedViT(self.backbone.model).eval()
        return DeployedModel(plain, self.spec.deployed, lambda count: self.search_split.batch(0, count))

    @property
    def timed_batch(self) -> int:
        return self.spec.deployed.batch_sizes[0] if self.spec.deployed is not None else self.batch_size

    def timing_images(self, size: int | None = None) -> torch.Tensor:
        """A full batch [B, C, H, W] on the device, of the size that speed is searched for if none is given."""
        size = size or self.timed_batch
        return self.search_split.cycle(0, size).to(self.device)

    def time_pairs(self, schedule: Schedule) -> PairedTiming:
        """Against the dense model, in the runtime that the study asks for."""
        if self.deployed is not None:
            return self.deployed.time(schedule, self.timing_images())
        return time_pairs(self.model, schedule, self.timing_images())


def for_backbone(spec: StudySpec, family: Family) -> StudySpec:
    """The study with the methods that the backbone can run, where it names none: some need a class token."""
    space = spec.space
    if family.class_token or set(space.methods) != set(METHODS):
        return spec
    able = [name for name in space.methods if not load_method(name, {}).needs_class_token]
    options = {name: values for name, values in space.options.items() if name in able}
    chosen = {**spec.to_dict()["space"], "methods": able, "options": options, "mixed": space.mixed}
    return make_spec({**spec.to_dict(), "space": chosen}, spec.name)
