"""What is downloaded from the Hugging Face hub, from a server that answers as the hub's documentation says.

The address is read when huggingface_hub is imported, so each download is a process of its own.
Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables (HF_ENDPOINT, HF_HOME).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf

from pruning.backbones import load_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import json, sys
from pruning.backbones import load_backbone
from pruning.errors import PruningError
try:
    found = load_backbone(sys.argv[1])
    print(json.dumps([found.fingerprint, found.num_classes, list(found.class_names), list(found.data_config["mean"])]))
except PruningError as error:
    print(json.dumps(str(error)))
"""


@contextmanager
def hub(folder: Path, requests: list[str]) -> Iterator[str]:
    """A server with the files of one model, own/model, at any revision but `gone`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            path = folder / name
            missing = None if revision != "gone" else "RevisionNotFound"
            missing = missing or (None if repository == "own/model" else "RepoNotFound")
            missing = missing or (None if path.is_file() else "EntryNotFound")
            content = b"" if missing else path.read_bytes()
            self.send_response(404 if missing else 200)
            if missing:
                self.send_header("X-Error-Code", missing)
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def load(name: str, endpoint: str, home: Path, **settings: str) -> object:
    """What a new process makes of a backbone's name: facts of it, or the words of its refusal."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **settings}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_is_downloaded_once_and_named_where_it_cannot_be(tmp_path: Path) -> None:
    folder, home, requests = tmp_path / "model", tmp_path / "home", []
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3)}
    save_for_hf(model, folder, model_config={"label_names": ["cat", "dog", "eel"]}, safe_serialization=True)
    expected = [load_backbone(str(folder)).fingerprint, 3, ["cat", "dog", "eel"], [0.1, 0.2, 0.3]]
    with hub(folder, requests) as endpoint:
        assert load("hf_hub:own/model", endpoint, home) == expected
        assert requests.count("GET /own/model/resolve/main/model.safetensors") == 1
        assert load("hf-hub:own/model@main", endpoint, home) == expected
        assert requests.count("GET /own/model/resolve/main/model.safetensors") == 1  # it lies in the cache
        for name in ("own/other", "own/model@gone"):
            refusal = str(load(f"hf_hub:{name}", endpoint, home))
            assert refusal.startswith(f"backbone.name: hf_hub:{name} could not be downloaded: ")
            assert refusal.endswith("give the path of a folder with the model, or connect to the hub")
        (folder / "model.safetensors").unlink()
        assert "hf_hub:own/model must hold weights (" in str(load("hf_hub:own/model", endpoint, tmp_path / "another"))
    assert load("hf_hub:own/model", endpoint, home, HF_HUB_OFFLINE="1") == expected
    assert "could not be downloaded: " in str(
        load("hf_hub:own/model", endpoint, tmp_path / "third", HF_HUB_OFFLINE="1")
    )
