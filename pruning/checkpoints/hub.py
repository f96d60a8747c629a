"""Models of the Hugging Face hub: what a backbone needs of one is downloaded, configurations and a file of weights."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pruning.checkpoints.base import WEIGHTS
from pruning.checkpoints.names import CONFIGURATIONS
from pruning.checkpoints.shards import is_index, shard_names
from pruning.errors import WeightsError

FILES = (*CONFIGURATIONS, "preprocessor_config.json", "processor_config.json")
FILES_OF_WEIGHTS = (*WEIGHTS, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def download_configuration(hub_id: str) -> Path:
    """The local folder of `ORG/NAME` or `ORG/NAME@REVISION`, without weights. Raises WeightsError."""
    found = [path for name in FILES if (path := _download(hub_id, name)) is not None]
    if not found:
        raise WeightsError(f"backbone.name: hf_hub:{hub_id} must hold a configuration ({' or '.join(CONFIGURATIONS)})")
    return found[0].parent


def download_weights(hub_id: str) -> Path:
    """Its weights, the first of FILES_OF_WEIGHTS that it has, and the shards of an index. Raises WeightsError."""
    found = next((path for name in FILES_OF_WEIGHTS if (path := _download(hub_id, name)) is not None), None)
    if found is None:
        raise WeightsError(f"backbone.name: hf_hub:{hub_id} must hold weights ({', '.join(FILES_OF_WEIGHTS)})")
    if is_index(found):
        for name in shard_names(found):
            _download(hub_id, name)  # one that is not there is missed when the index is read
    return found


def _download(hub_id: str, name: str) -> Path | None:
    """One file; None if the model has none of this name."""
    repository, _, revision = hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except LocalEntryNotFoundError as error:  # offline, or no answer
        if try_to_load_from_cache(repository, name, revision=revision or None) is _CACHED_NO_EXIST:
            return None  # as the hub has said before
        reason = str(error).strip().splitlines()[0]
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] or type(error).__name__
    raise WeightsError(
        f"backbone.name: hf_hub:{hub_id} could not be downloaded: {reason}; give the path of a folder with the "
        "model, or connect to the hub"
    )
