"""What is asked of a schedule: how its answers are judged, and how its speed is known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search.config.sections import MAX_IMAGES_AT_ONCE, Section
from search.config.validation_messages import SpecRuleError

LABELLED = ("top1", "knn", "zero-shot")  # kinds of accuracy against labels ...
AGREEING = ("agreement", "embedding")  # ... and with the dense model's own answers
WITH_GALLERY = ("knn", "embedding")  # those that compare images with other images
K, MAX_GALLERY = 20, 10_000  # unless asked otherwise
MIN_GALLERY = 2  # images: of one, every image's nearest is the same
PROMPT, SLOT = "a photo of a {}.", "{}"
EMBEDDINGS, NAMES = (".npy", ".npz", ".safetensors"), ".txt"  # suffixes of `text`


class ObjectivesSpec(Section):
    """accuracy: the share of images whose answer is right. `top1`: the class, against labels. `agreement`: the class,
    with the dense model. `knn`: the class by a vote of the nearest images of a gallery, by the dense model's pooled
    features, against labels. `zero-shot`: the class whose text embedding is nearest to the image's, against labels.
    `embedding`: the nearest image of a gallery, with the dense model.

    k: of `knn`, how many neighbours vote. gallery_images: of `knn` and `embedding`, how many images the gallery has;
    None for those that are left, at most MAX_GALLERY.
    text: of `zero-shot`, a file of the classes' text embeddings, or names of classes (a list, or a file with one on
    each line), which an installed open_clip embeds as `prompt` has it.
    throughput: from a latency profile, measured for each trial, or from a profile taken in ONNX Runtime.
    """

    accuracy: Literal["top1", "agreement", "knn", "zero-shot", "embedding"] = "top1"
    throughput: Literal["profiled", "measured", "onnxruntime"] = "profiled"
    k: int | None = Field(default=None, ge=1, le=1000)
    gallery_images: int | None = Field(default=None, ge=MIN_GALLERY, le=MAX_IMAGES_AT_ONCE)
    text: str | tuple[str, ...] | None = None
    prompt: str | None = None

    @property
    def neighbours(self) -> int:
        return K if self.k is None else self.k

    @property
    def least_gallery(self) -> int:
        """Images that the gallery cannot do without; 0 where there is none."""
        if self.accuracy not in WITH_GALLERY:
            return 0
        return max(self.gallery_images or MIN_GALLERY, self.neighbours if self.accuracy == "knn" else MIN_GALLERY)

    @property
    def labelled(self) -> bool:
        return self.accuracy in LABELLED

    @property
    def classes_are_named(self) -> bool:
        """Whether `text` holds names of classes, to be embedded, and no embeddings."""
        return isinstance(self.text, tuple) or (self.text is not None and PurePath(self.text).suffix.lower() == NAMES)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides which answers are right, as plain data: `accuracy`, and what else was given."""
        return self.model_dump(mode="json", exclude={"throughput"}, exclude_none=True)

    @field_validator("text", mode="before")
    @classmethod
    def _names_or_file(cls, value: Any) -> Any:
        is_other = value is not None and not isinstance(value, str | list | tuple)
        if is_other or (isinstance(value, str) and PurePath(value).suffix.lower() not in (*EMBEDDINGS, NAMES)):
            known = f"{', '.join(EMBEDDINGS)} (embeddings) or {NAMES} (names)"
            raise SpecRuleError("", f"must be a list of class names or a file of {known}", repr(value))
        if isinstance(value, list | tuple):
            if len(value) < 2 or not all(isinstance(name, str) and name.strip() for name in value):
                raise SpecRuleError("", "must list names of two classes or more", repr(value))
            return tuple(value)
        return value

    @field_validator("prompt")
    @classmethod
    def _has_a_slot(cls, value: str | None) -> str | None:
        if value is not None and value.count(SLOT) != 1:
            raise SpecRuleError("", f"must hold {SLOT} once, where the class name goes", repr(value), f"say {PROMPT!r}")
        return value

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> ObjectivesSpec:
        kinds = {"k": ("knn",), "gallery_images": WITH_GALLERY, "text": ("zero-shot",), "prompt": ("zero-shot",)}
        for name, allowed in kinds.items():
            value = getattr(self, name)
            if value is not None and self.accuracy not in allowed:
                rule = f"is for accuracy {' or '.join(allowed)} alone, not for {self.accuracy}"
                raise SpecRuleError(name, rule, repr(value), "leave it out")
        if self.accuracy == "knn" and self.gallery_images is not None and self.gallery_images < self.neighbours:
            rule = f"must be at least k, {self.neighbours}: so many neighbours vote"
            raise SpecRuleError("gallery_images", rule, self.gallery_images, "raise it, or lower k")
        if self.accuracy == "zero-shot" and self.text is None:
            remedy = f"name a file of embeddings ({', '.join(EMBEDDINGS)}), or list the names of the classes"
            raise SpecRuleError("text", "is required for accuracy zero-shot", remedy=remedy)
        if self.prompt is not None and not self.classes_are_named:
            raise SpecRuleError("prompt", "is for names of classes, and text holds embeddings", remedy="leave it out")
        return self


def split_recorded(data: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The block `data` of an exported configuration as the sections `data` and `objectives` of a study."""
    sections: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, value in data:
        if name != "fingerprint":
            sections[name in ObjectivesSpec.model_fields][name] = value
    return sections
