"""Files of weights as training scripts save them: read safely, and of several sets of weights one chosen.

Read like timm: of several sets of weights in a file the averaged ones (EMA) are taken.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pruning.checkpoints.names import RAW
from pruning.checkpoints.shards import INDEX, is_index, read_shards
from pruning.checkpoints.training_flags import Flags, flags_of
from pruning.errors import WeightsError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
AVERAGED = ("state_dict_ema", "model_ema")
PLAIN = ("state_dict", "model", "teacher")
MAX_NAMED = 5  # keys in a message


def read_file(path: Path, weights_key: str | None = None) -> tuple[dict[str, Any], str, Flags]:
    """What the file holds under the key of its weights, the key, and the flags of its training; see
    `pruning.checkpoints.sources.read_weights`."""
    loaded = _read(path)
    sets = {str(key): value for key, value in loaded.items() if _is_set(value)} if isinstance(loaded, dict) else {}
    key = _choose(sets, path, weights_key)
    state = loaded if key is None else sets[key]
    if not isinstance(state, dict):
        raise WeightsError(f"backbone.weights: {path} must hold a state_dict, a mapping of names to tensors")
    return {str(name): value for name, value in state.items()}, key or "", {} if key is None else flags_of(loaded)


def _read(path: Path) -> Any:
    if is_index(path):
        return read_shards(path, _read)
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"backbone.weights must be pretrained, random, or a path to {', '.join(SUFFIXES)} or {INDEX}, got {path}"
        )
    if not path.is_file():
        raise WeightsError(f"backbone.weights: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # training scripts keep their parsed flags beside the weights; nothing else but tensors and plain data is read
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns of the very bytes that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own words advise to load it unsafely
        raise WeightsError(
            f"backbone.weights: {path} must hold tensors only, got a pickle of other objects or a broken file; save "
            "the model's state_dict, best as .safetensors"
        ) from None
    except Exception as error:  # broken bytes make torch's unpickler raise anything: IndexError, struct.error, ...
        raise WeightsError(f"backbone.weights: {path} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]


def tensors_of(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The mapping, if it holds names and tensors alone. Raises WeightsError."""
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"backbone.weights: {path} must hold a state_dict, a mapping of names to tensors")
    return {str(name): value for name, value in state.items()}


def _is_set(value: Any) -> bool:
    """Whether it may be a set of weights, by itself."""
    return isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())


def _choose(sets: Mapping[str, Any], path: Path, weights_key: str | None) -> str | None:
    """The key of the set of weights; None if the file is one itself. Raises WeightsError."""
    if weights_key is not None and weights_key != RAW:
        if weights_key not in sets:
            there = ", ".join(list(sets)[:MAX_NAMED]) or "none"
            raise WeightsError(
                f"backbone.weights_key must be a key of {path} that holds weights ({there}), got {weights_key!r}; "
                "leave it out for the averaged weights, or else the only ones"
            )
        return weights_key
    order = PLAIN if weights_key == RAW else AVERAGED + PLAIN
    return next((key for key in order if key in sets), None)
