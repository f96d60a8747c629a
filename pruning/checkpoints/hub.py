"""Models of the Hugging Face hub: what a backbone needs of one is downloaded, configurations and a file of weights."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pruning.checkpoints.names import CONFIGURATIONS
from pruning.errors import WeightsError

FILES = (*CONFIGURATIONS, "preprocessor_config.json", "processor_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def download_configuration(hub_id: str) -> Path:
    """The local folder of `ORG/NAME` or `ORG/NAME@REVISION`, without weights. Raises WeightsError."""
    found = [path for name in FILES if (path := _download(hub_id, name)) is not None]
    if not found:
        raise WeightsError(f"backbone.name: hf_hub:{hub_id} must hold a configuration ({' or '.join(CONFIGURATIONS)})")
    return found[0].parent


def download_weights(hub_id: str) -> Path:
    """Its file of weights, the first of WEIGHTS that it has. Raises WeightsError."""
    found = next((path for name in WEIGHTS if (path := _download(hub_id, name)) is not None), None)
    if found is None:
        raise WeightsError(f"backbone.name: hf_hub:{hub_id} must hold weights in one file ({', '.join(WEIGHTS)})")
    return found


def _download(hub_id: str, name: str) -> Path | None:
    """One file; None if the model has none of this name."""
    repository, _, revision = hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except LocalEntryNotFoundError as error:  # offline, or no answer
        reason = str(error).strip().splitlines()[0]
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] or type(error).__name__
    raise WeightsError(
        f"backbone.name: hf_hub:{hub_id} could not be downloaded: {reason}; give the path of a folder with the "
        "model, or connect to the hub"
    )
