"""The dependency rule, read from the imports themselves.

cli -> server -> reporting -> runtime -> evaluation | samplers | storage -> config -> types -> pruning, never back up,
and no sideways import among the three in the middle; `pruning` knows nothing of `search`;
no cycles; what runs no model loads no torch. And Optuna is used by its public interface alone.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage, RDBStorage

ROOT = Path(__file__).parents[1]
LAYERS = ("cli", "server", "reporting", "runtime", "evaluation", "samplers", "storage", "config", "types")
BESIDE = {"evaluation", "samplers", "storage"}  # of which none imports another; each layer may import those after it
GROUND = (
    "pruning",
    "search.attribute_keys",
    "search.errors",
    "search.extras",
    "search.logs",
    "search.scratch",
    "studies",
)  # what every layer may import
SOURCES = sorted([*ROOT.glob("pruning/**/*.py"), *ROOT.glob("search/**/*.py")])
HEAVY = {"torch", "timm", "fvcore", "torchvision"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, *, typing: bool, late: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements below `node`. typing: those for type checkers too. late: those inside functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not late:
            continue
        elif isinstance(child, ast.If) and is_typing_only(child) and not typing:
            yield from (each for branch in child.orelse for each in statements(branch, typing=typing, late=late))
        else:
            yield from statements(child, typing=typing, late=late)


def imported(name: str, source: str, *, typing: bool = True, late: bool = True) -> set[str]:
    """Full names of what the module imports: `from a import b` is a.b if that is a module of ours, else a."""
    found: set[str] = set()
    for node in statements(ast.parse(source), typing=typing, late=late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{name}: imports must be absolute, got {ast.unparse(node)}"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            found.add(full if full in MODULES else node.module)
    return found


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def broken_rules(name: str, source: str) -> list[str]:
    """What the module imports and may not."""
    ours = {each for each in imported(name, source) if each.split(".")[0] in ("search", "pruning", "studies", "tests")}
    if is_within(name, "pruning"):
        allowed = ["pruning", "studies"]
    elif name == "search" or (name in GROUND and name.startswith("search.")):
        allowed = [*GROUND]
    else:
        layer = name.split(".")[1]
        assert layer in LAYERS, f"{name} is in no layer; the layers are {', '.join(LAYERS)}"
        below = LAYERS[LAYERS.index(layer) :]
        allowed = [*GROUND, *(f"search.{each}" for each in below if each == layer or not {each, layer} <= BESIDE)]
    return sorted(each for each in ours if not any(is_within(each, package) for package in allowed))


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    assert broken_rules(name, MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "broken"),
    [
        ("pruning.model", "from search.errors import InputError", ["search.errors"]),
        ("search.types", "from search.config.spec import StudySpec", ["search.config.spec"]),
        ("search.storage.store", "from search.samplers.ehvi import growth", ["search.samplers.ehvi"]),
        ("search.storage.store", "def f():\n    from search.reporting import report", ["search.reporting.report"]),
        (
            "search.config.spec",
            "if TYPE_CHECKING:\n    from search.reporting import report",
            ["search.reporting.report"],
        ),
        ("search.runtime.worker", "from search import cli, storage", ["search.cli"]),
        ("search.errors", "from search.config.spec import StudySpec", ["search.config.spec"]),
        ("search.reporting.report", "from search.types import Front\nimport pruning, rich", []),
        ("search.cli", "from search.reporting.report import table", []),
        ("pruning.flops", "from pruning.model import PrunedViT", []),
    ],
)
def test_the_reader_of_imports_sees_every_kind(name: str, source: str, broken: list[str]) -> None:
    assert broken_rules(name, source) == broken


@pytest.mark.parametrize("typing", [False, True])
def test_no_cycles(typing: bool) -> None:
    """Not even late imports escape one; with `typing`, imports for type checkers count as well.

    A package's `__init__` that loads its names on first use is left out: it imports nothing when it is imported.
    """
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        names = imported(name, path.read_text(), typing=typing)
        graph[name] = {each for each in names if each in MODULES and each != name} - {"pruning"}
    graph.pop("pruning")
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the modules


def test_the_library_loads_its_names_on_first_use() -> None:
    """So `pruning` itself is no part of a cycle: at run time it imports nothing of its own package."""
    assert imported("pruning", MODULES["pruning"].read_text(), typing=False) <= {"__future__", "importlib", "typing"}
    package = importlib.import_module("pruning")
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("pruning.")
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match="module 'pruning' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


LIGHT = sorted(
    name
    for name in MODULES
    if is_within(name, "search.storage")
    or is_within(name, "search.config")
    or name in ("search", "search.attribute_keys", "search.errors", "search.logs", "search.types")
    if not is_within(name, "search.storage.migrations")  # scripts that Alembic runs, in a context of its own
)


def loaded_by(*names: str) -> set[str]:
    """Top-level packages that importing the modules loads, in a fresh interpreter."""
    code = f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "names",
    [
        ["pruning", "pruning.schedule", "pruning.stage", "pruning.yaml_io", "pruning.methods", "pruning.config"],
        LIGHT,
        ["search.server.server", "search.server.app"],  # else each service would be as large as a worker
    ],
    ids=["schedules", "storage and config", "service"],
)
def test_what_runs_no_model_loads_no_torch(names: list[str]) -> None:
    assert loaded_by(*names) & HEAVY == set()


# Optuna's tables. Which release wrote them stands in version_info alone, and Optuna has no function that tells it.
THEIRS = "studies|study_directions|study_user_attributes|study_system_attributes|trials|trial_params|trial_values|"
THEIRS += "trial_intermediate_values|trial_user_attributes|trial_system_attributes|trial_heartbeats"
SQL = re.compile(rf"\b(FROM|INTO|JOIN|TABLE|UPDATE)\s+({THEIRS})\b")
OURS = {"self", "cls"}  # whose private attributes may be used, ...
ALLOWED = {"os._exit", "store._prepare"}  # ... and two more, of which none is Optuna's


def private_uses(source: str) -> list[str]:
    """Private modules and names of Optuna, private attributes of any object but one's own, SQL on Optuna's tables."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and is_within(node.module or "", "optuna"):
            found += [name for alias in node.names if is_private(name := f"{node.module}.{alias.name}")]
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found += [name for name in names if is_within(name, "optuna") and is_private(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in OURS):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value):
            found.append(node.value)
        elif isinstance(node, ast.Call):
            found += called(node)
    return sorted(set(found) - ALLOWED)


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def called(node: ast.Call) -> list[str]:
    """What a call names by a string: a table of Optuna's, or a private attribute."""
    name = ast.unparse(node.func).rpartition(".")[2]
    texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if name in ("Table", "table", "has_table"):
        return [text for text in texts if re.fullmatch(THEIRS, text)]
    return [text for text in texts if is_private(text)] if name in ("getattr", "setattr", "hasattr") else []


@pytest.mark.parametrize("name", [name for name in MODULES if is_within(name, "search")])
def test_optuna_is_used_by_its_public_interface(name: str) -> None:
    assert private_uses(MODULES[name].read_text()) == []


@pytest.fixture(scope="module")
def names_of_optuna() -> set[str]:
    """Private names of what Optuna's public interface gives: tests may use private names, but not these."""
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=RandomSampler(seed=0))
    trial = study.ask({"x": FloatDistribution(0, 1), "n": IntDistribution(0, 1), "c": CategoricalDistribution("ab")})
    (frozen,) = study.get_trials()
    objects = [storage, study, trial, study.sampler, frozen, *frozen.distributions.values(), *storage.get_all_studies()]
    return {name for each in (*objects, RDBStorage("sqlite://")) for name in dir(each) if is_private(name)}


OLD_STORES = {  # make what an earlier release of Optuna left, which nothing public does, or are about such names
    "tests/contracts/stores/test_store_upgrade.py",
    "tests/test_architecture.py",
}
TESTS = {
    str(path.relative_to(ROOT)): path for path in sorted(ROOT.glob("tests/**/*.py")) if "fixtures" not in path.parts
}


def test_tests_use_optuna_by_its_public_interface(names_of_optuna: set[str]) -> None:
    known = ["d._contains", "a.b._trial_id", "study._storage", "optuna.storages._rdb", "studies", "a\nFROM trials b"]
    assert of_optuna([*known, "store._engine", "optunas._x", "other_studies"], names_of_optuna) == known
    found = {name: private_uses(path.read_text()) for name, path in TESTS.items() if name not in OLD_STORES}
    assert {name: theirs for name, uses in found.items() if (theirs := of_optuna(uses, names_of_optuna))} == {}


def of_optuna(uses: list[str], names: set[str]) -> list[str]:
    """Of what `private_uses` finds, what is not our own."""
    theirs = re.compile(rf"optuna\b.*|{THEIRS}|.*{SQL.pattern}.*", re.DOTALL)
    return [use for use in uses if theirs.fullmatch(use) or use.rpartition(".")[2] in names]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from optuna.storages._rdb import models", ["optuna.storages._rdb.models"]),
        ("from optuna.storages import RDBStorage, _CachedStorage", ["optuna.storages._CachedStorage"]),
        ("import optuna.storages._rdb.models as models", ["optuna.storages._rdb.models"]),
        ("study._storage.set_trial_user_attr(1, 'a', 2)", ["study._storage"]),
        ("number = self.study.ask()._trial_id", ["self.study.ask()._trial_id"]),
        ("number = getattr(trial, '_trial_id')", ["_trial_id"]),
        ("text('SELECT number FROM trials')", ["SELECT number FROM trials"]),
        ("text(f'UPDATE trial_params SET a = {b}')", ["UPDATE trial_params SET a = "]),
        ("sa.Table('studies', metadata)", ["studies"]),
        ("study.ask(); self._store.trials(); files('studies'); text('SELECT 1 FROM ztp_trial'); type(a).__name__", []),
    ],
)
def test_the_reader_of_uses_sees_every_kind(source: str, found: list[str]) -> None:
    assert private_uses(source) == found


KEYED = {"provenance", "user_attributes", "system_attributes", "user_attrs", "system_attrs"}


def literal_keys(source: str) -> list[str]:
    """Look-ups in a study's provenance or a trial's attributes by a literal key; an exported file's are its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(value=of, slice=ast.Constant(value=str())):
                pass
            case ast.Call(func=ast.Attribute(value=of, attr="get"), args=[ast.Constant(value=str()), *_]):
                pass
            case _:
                continue
        if ast.unparse(of).rpartition(".")[2] in KEYED and not ast.unparse(of).startswith("config."):
            found.append(ast.unparse(node))
    return found


def test_keys_of_attributes_stand_in_one_module() -> None:
    source = "a.provenance['x']; provenance.get('x', 1); t.user_attrs.get(KEY); config.provenance['x']; other['x']"
    assert literal_keys(source) == ["a.provenance['x']", "provenance.get('x', 1)"]
    assert {name: found for name in MODULES if (found := literal_keys(MODULES[name].read_text()))} == {}
