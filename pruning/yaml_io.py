"""YAML documents: read strictly, with the place in every message; written so that a crash leaves the old file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pruning.errors import ConfigError

MAX_EXPANDED = 1_000_000  # characters and nodes once aliases are written out; a study has some hundreds


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader takes the last of two equal keys in silence; this one refuses.

    It refuses as well what a few aliases blow up to: harmless as shared objects, not once it is copied or shown.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._expanded(node, {})
        return node

    def _expanded(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """Size of a node with its aliases written out; `sizes`: of those seen, -1 while one is being measured."""
        known = sizes.get(id(node))
        if known is None:
            sizes[id(node)] = -1
            children = [node.value] if isinstance(node.value, str) else node.value
            sizes[id(node)] = known = 1 + sum(self._size(child, sizes) for child in children)
        if not 0 <= known <= MAX_EXPANDED:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases must not expand to more than {MAX_EXPANDED:,} characters", node.start_mark
            )
        return known

    def _size(self, child: Any, sizes: dict[int, int]) -> int:
        if isinstance(child, str):
            return len(child)
        return sum(self._expanded(node, sizes) for node in (child if isinstance(child, tuple) else (child,)))

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        self._refuse_other_bases(node)
        return int(super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        self._refuse_other_bases(node)
        return float(super().construct_yaml_float(node))

    def _refuse_other_bases(self, node: yaml.ScalarNode) -> None:
        """YAML 1.1 counts 1:30 in sixties and 010 in eights, which nobody means who writes them."""
        digits = str(node.value).lstrip("+-")
        if ":" in digits or (len(digits) > 1 and digits.isdigit() and digits[0] == "0"):
            problem = f"{node.value} is no decimal number; write one, or in quotes if it is text, or a duration as 90s"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice; remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float)


def parse_yaml(text: str, place: str) -> Any:
    """Parse one YAML document. Raises ConfigError with `place`, line and column."""
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}{where}: must be valid YAML: {problem}") from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{place}: must be valid YAML: {error}") from None


def read_yaml(path: Path) -> Any:
    """Read one YAML file. Raises ConfigError if it is missing, unreadable, not UTF-8 or not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text") from None
    return parse_yaml(text, str(path))


def write_text(path: Path, text: str) -> None:
    """`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a temporary neighbour first, then renamed. Raises ConfigError."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide an exported file from its users
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; choose a writable folder") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)
