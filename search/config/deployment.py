"""Where a study's models are deployed: the section `deployment` of its YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from search.config.sections import MAX_IMAGES_AT_ONCE, MAX_WORKERS, Section
from search.config.validation_messages import SpecRuleError

RuntimeName = Literal["torch", "onnxruntime", "openvino"]
REFUSED = {  # what is asked for and was tried, or cannot be: why
    "executorch": "ExecuTorch 1.5 has no kernel for aten::sort.stable, by which methods order tokens",
    "tensorrt": "TensorRT needs a CUDA GPU, and models are deployed on the CPU",
}


def check_runtime(name: object, place: str = "") -> None:
    """Raise SpecRuleError, an InputError, for a runtime that is unknown or refused."""
    if name not in get_args(RuntimeName):
        why = f": {REFUSED[name]}" if isinstance(name, str) and name in REFUSED else ""
        remedy = "docs/deployment.md says what was tried" if why else ""
        raise SpecRuleError(place, f"must be one of {', '.join(get_args(RuntimeName))}{why}", repr(name), remedy)


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

    @field_validator("runtime", mode="before")
    @classmethod
    def _known_runtime(cls, value: Any) -> Any:
        check_runtime(value)
        return value

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _different_sizes(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not value or len(set(map(repr, value))) < len(value):
            raise ValueError("must be a list of different numbers of images")
        return tuple(value)
