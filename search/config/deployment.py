"""Where a study's models are deployed: the section `deployment` of its YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from search.config.sections import MAX_IMAGES_AT_ONCE, MAX_WORKERS, Section

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # that runtimes need
RuntimeName = Literal["torch", "onnxruntime", "openvino"]


class DeploymentSpec(Section):
    """Where speed counts: predicted there while searching, measured there when confirming, on this machine's CPU.

    runtime: torch, onnxruntime or openvino. precision: that of the deployed models; the dense model that they are
        compared with runs in float32 there. int8: quantised after training, by images of the search split.
    batch_sizes: the first is what schedules are searched for; finalists are timed at all of them.
    threads: of one pass; null: as many as a worker has.
    """

    runtime: RuntimeName
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=MAX_IMAGES_AT_ONCE)], ...] = (1,)
    threads: int | None = Field(default=None, ge=1, le=MAX_WORKERS)

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _different_sizes(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not value or len(set(map(repr, value))) < len(value):
            raise ValueError("must be a list of different numbers of images")
        return tuple(value)
