"""A Dockerfile run without Docker: its instructions, in a root that is thrown away.

Knows the instructions that ours uses, overlay mounts and chroot. The root is this machine's own files under an
overlay, which stands for the base image: what a RUN line installs, writes or deletes lands in the overlay alone.
Ignores layers, caching and networks.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

PYTHON = Path(sys.executable).resolve()  # not the virtual environment's: it stands for the base image's
VISIBLE = f"{PYTHON.parents[1]}:{sysconfig.get_paths()['purelib']}"  # wherever they lie: needed inside
PATHS = f"{PYTHON.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = """set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/tmp"
mount --rbind /dev "$1/root/dev"
IFS=:; for path in $VISIBLE; do  # a folder of another mount, or of /tmp
    [ -e "$1/root$path" ] || { mkdir -p "$1/root$path"; mount --bind "$path" "$1/root$path"; }
done; unset IFS
exec chroot "$1/root" setpriv --reuid "$2" --regid "$2" --clear-groups --no-new-privs \\
    sh -c 'cd "$0" && exec "$@"' "${@:3}"
"""


@dataclass(frozen=True)
class Instruction:
    """name: in capitals. value: continuation lines joined. stage: its number, from 0."""

    name: str
    value: str
    stage: int


@dataclass
class Image:
    """What the instructions so far have set, as the runtime would have it."""

    variables: dict[str, str] = field(default_factory=dict)  # ENV and ARG
    folder: str = "/"
    user: str = "0"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def read(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, without comments, in order."""
    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    found, stage = [], -1
    for entry in parser.structure:
        if entry["instruction"] == "COMMENT":
            continue
        stage += entry["instruction"] == "FROM"
        found.append(Instruction(entry["instruction"], entry["value"], stage))
    return found


def can_mount() -> bool:
    """Whether this user may make a throw-away root: root with a namespace of its own."""
    if os.geteuid() or not all(shutil.which(tool) for tool in ("unshare", "chroot", "setpriv")):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


class Builder:
    """Carries instructions out in a folder that is the overlay's upper layer."""

    def __init__(self, folder: Path, context: Path, replaced: Mapping[str, str]) -> None:
        """replaced: ARG and ENV values that the test sets instead of the file's, or besides them."""
        self._folder, self._context, self._replaced = folder, context, replaced
        self.image = Image(dict(replaced))
        self.ran: list[str] = []
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        # a base image's interpreter is for everybody, this machine's may lie in somebody's home
        assert self.run(["chmod", "a+x", *map(str, PYTHON.parents)]).returncode == 0

    def run(self, command: list[str], user: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command inside, by the image's user and folder unless another is named."""
        base = {"PATH": PATHS, "HOME": "/tmp"}
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", INSIDE, "build"]
        where = [str(self._folder), user or self.image.user.partition(":")[0], self.image.folder, *command]
        return subprocess.run(
            [*inside, *where],
            env={**base, **self.image.variables, **variables, "VISIBLE": VISIBLE},
            capture_output=True,
            text=True,
            check=False,
        )

    def carry_out(self, instruction: Instruction) -> None:
        """One instruction; a RUN line that fails is an AssertionError with its last words."""
        method = getattr(self, f"_{instruction.name.lower()}", None)
        if method is not None:
            method(instruction.value)

    def _run(self, value: str) -> None:
        ran = self.run(["/bin/sh", "-c", value])
        assert ran.returncode == 0, f"RUN {value}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        self.ran.append(value)

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self.image.variables.setdefault(name, default)

    def _env(self, value: str) -> None:
        for name, text in re.findall(r'(\w+)=("[^"]*"|\S+)', value):
            if name not in self._replaced:
                self.image.variables[name] = self._expanded(text.strip('"'))

    def _expanded(self, text: str) -> str:
        known = {"PATH": PATHS, **self.image.variables}
        return re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), text)

    def _workdir(self, value: str) -> None:
        self.image.folder = value
        (self._folder / "upper" / value.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, value: str) -> None:
        self.image.user = value

    def _copy(self, value: str) -> None:
        if value.startswith("--from="):
            return  # all stages share this root
        *sources, target = value.split()
        folder = self._folder / "upper" / self.image.folder.lstrip("/") / target
        for source in sources:
            path = self._context / source
            if path.is_dir():
                shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, folder)

    def _entrypoint(self, value: str) -> None:
        self.image.entry = json.loads(value)

    def _cmd(self, value: str) -> None:
        self.image.command = json.loads(value)

    def _healthcheck(self, value: str) -> None:
        self.image.health = json.loads(value[value.index("[") :])
