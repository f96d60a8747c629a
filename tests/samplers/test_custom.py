"""Samplers of a user's own by import path: made as asked for, or refused before anything is computed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import NSGAIISampler, RandomSampler
from optuna.trial import TrialState, create_trial

from search.config.continuation import differences
from search.config.search_sections import SamplerSpec
from search.config.spec import StudySpec, make_spec
from search.errors import InputError
from search.samplers.custom import ALLOWED, allowed_classes, check_proposal, check_sampler, import_class, make_custom
from tests.samplers import own_samplers as own

SWEEP = own.class_path(own.Sweep)


def custom(path: str, **options: Any) -> SamplerSpec:
    return SamplerSpec.model_validate({"name": "custom", "class": path, "options": options})


def study(sampler: dict[str, Any]) -> StudySpec:
    return make_spec({"name": "shirts", "backbone": {"name": "demo"}, "sampler": sampler}, "file.yaml")


class TestSection:
    def test_is_written_and_read_back(self) -> None:
        sampler = {"name": "custom", "class": SWEEP, "options": {"step": 0.1, "more": {"a": [1, None]}}, "seed": 3}
        spec = study(sampler)
        assert spec.to_dict()["sampler"] == {"probes": 10, **sampler}
        assert make_spec(spec.to_dict(), "again") == spec
        assert spec.given()["sampler"] == sampler
        assert hash(spec) == hash(study(sampler))

    def test_other_samplers_are_stored_as_before(self) -> None:
        """A service or worker of before takes them."""
        assert study({"name": "tpe"}).to_dict()["sampler"] == {"name": "tpe", "seed": 0, "probes": 10}

    def test_is_part_of_the_studys_identity(self) -> None:
        first = study({"name": "custom", "class": SWEEP, "options": {"step": 0.1}})
        other = study({"name": "custom", "class": "a.b:C", "options": {"step": 0.2}})
        assert differences(first, first) == []
        assert differences(first, other) == [f"sampler.class: {SWEEP} -> a.b:C", "sampler.options.step: 0.1 -> 0.2"]

    @pytest.mark.parametrize(
        ("sampler", "message"),
        [
            ({"name": "custom"}, "sampler.class is required for sampler.name custom; it must be module:Class, "),
            ({"name": "custom", "class": "mine"}, "sampler.class must be module:Class, .* say, got 'mine'"),
            ({"name": "custom", "class": "mine.py:A"}, None),
            ({"name": "custom", "class": "../mine:A"}, "sampler.class must be module:Class"),
            ({"name": "custom", "class": ".mine:A"}, "sampler.class must be module:Class"),
            ({"name": "custom", "class": "mine:A()"}, "sampler.class must be module:Class"),
            ({"name": "custom", "class": 3}, "sampler.class must be text, got 3"),
            (
                {"class": "mine:A"},
                "sampler.class must be left out unless sampler.name is custom, got mine:A; write name",
            ),
            ({"options": {"a": 1}}, "sampler.options must be left out unless sampler.name is custom"),
            ({"name": "custom", "class": "a:A", "options": [1]}, "sampler.options must be a mapping of names to plain"),
            (
                {"name": "custom", "class": "a:A", "options": {"a": {1: 2}}},
                "sampler.options must be a mapping of names",
            ),
            ({"name": "custom", "class": "a:A", "options": {"a": float("inf")}}, "sampler.options must be a mapping"),
            ({"name": "custom", "class": "a:A", "options": {"a": {2}}}, "sampler.options must be a mapping"),
            (
                {"name": "custom", "class": "a:A", "options": {"seed": 4}},
                "sampler.options.seed must be left out, got 4; write it as sampler.seed",
            ),
            ({"clas": "mine:A"}, "sampler.clas is not a known key, .*did you mean class[?] known: .*, class, options"),
            ({"class_path": "mine:A"}, "sampler.class_path is not a known key"),
        ],
    )
    def test_refuses_with_the_place(self, sampler: dict[str, Any], message: str | None) -> None:
        if message is None:
            study(sampler)
            return
        with pytest.raises(InputError, match=rf"^file\.yaml: {message}"):
            study(sampler)


class TestMaking:
    def test_with_options_and_the_seed(self) -> None:
        made = make_custom(custom("optuna.samplers:NSGAIISampler", population_size=4), 11)
        assert type(made) is NSGAIISampler
        assert make_custom(custom(SWEEP, step=0.1), 11).__dict__["_step"] == 0.1
        first, second = (make_custom(custom("optuna.samplers:RandomSampler"), 11) for _ in range(2))
        assert isinstance(first, RandomSampler)
        assert [draw(first) for _ in range(3)] == [draw(second) for _ in range(3)]

    def test_without_a_seed_where_the_class_takes_none(self) -> None:
        assert isinstance(make_custom(custom(own.class_path(own.Unseeded)), 11), own.Unseeded)

    @pytest.mark.parametrize(
        ("path", "options", "message"),
        [
            ("no_such_module:A", {}, "sampler.class must be a class that can be imported here, .*ModuleNotFoundError"),
            (f"{own.__name__}:Gone", {}, "sampler.class must be a class that can be imported here, .*AttributeError"),
            ("broken:A", {}, "sampler.class must be a class .*RuntimeError: not today; install .* PYTHONPATH"),
            (f"{own.__name__}:NO_SAMPLER", {}, "sampler.class must be a subclass of optuna.samplers.BaseSampler, got"),
            ("pathlib:Path", {}, "sampler.class must be a subclass of optuna.samplers.BaseSampler, got pathlib:Path"),
            (SWEEP, {}, f"sampler.options must be what {SWEEP} takes, got {{}}; TypeError: .*'step'"),
            (SWEEP, {"step": 1, "x": 2}, "sampler.options must be what .*; TypeError: .*'x'"),
            ("optuna.samplers:NSGAIISampler", {"population_size": 1}, "sampler.options must be .*ValueError"),
            ("optuna.samplers:BaseSampler", {}, "sampler.options must be what .*TypeError: .*abstract"),
        ],
    )
    def test_refuses_what_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, options: dict[str, Any], message: str
    ) -> None:
        (tmp_path / "broken.py").write_text("raise RuntimeError('not today')\n")
        monkeypatch.syspath_prepend(tmp_path)
        spec = study({"name": "custom", "class": path, "options": options})
        with pytest.raises(InputError, match=rf"^shirts: {message}"):
            check_sampler(spec, None)

    def test_a_module_may_fetch_its_class_from_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As `optunahub.load_module` does: the class has another module's name, or none."""
        (tmp_path / "fetched.py").write_text(
            "import types, optuna\nHub = types.new_class('Hub', (optuna.samplers.RandomSampler,))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        assert issubclass(import_class("fetched:Hub", "here"), RandomSampler)


def draw(sampler: Any) -> float:
    study = optuna.create_study(sampler=sampler)
    return study.ask({"x": FloatDistribution(0, 1)}).params["x"]


@pytest.mark.parametrize(
    ("params", "attributes", "error"),
    [
        ({"x": 0.5}, {"own:state": [1, "a", None]}, None),
        ({"x": 1.5}, {}, ValueError),
        ({"x": "a"}, {}, ValueError),
        ({}, {}, ValueError),
        ({"x": 0.5}, {"own:state": float("nan")}, ValueError),
        ({"x": 0.5}, {"own:state": {1}}, TypeError),
    ],
)
def test_a_proposal_can_be_stored_and_mirrored_or_is_refused(
    params: dict[str, Any], attributes: dict[str, Any], error: type[Exception] | None
) -> None:
    box = {"x": FloatDistribution(0, 1)}
    trial = create_trial(state=TrialState.RUNNING, system_attrs=attributes)
    trial.params = params
    with pytest.raises(error) if error else nullcontext():
        check_proposal(trial, box)


class TestAllowed:
    @pytest.fixture
    def trap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A file that is there once the module `trap` was imported."""
        (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nclass A: pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "sprung"
        sys.modules.pop("trap", None)

    @pytest.mark.parametrize(("allowed", "listed"), [([], "none is listed"), (["a:A", "trap:B"], "a:A, trap:B")])
    def test_nothing_is_imported_of_a_class_that_is_not(self, trap: Path, allowed: list[str], listed: str) -> None:
        spec = study({"name": "custom", "class": "trap:A"})
        words = f"shirts: sampler.class must be a class that the operator allows ({listed}), got trap:A; see --allow-"
        with pytest.raises(InputError, match=re.escape(words)):
            check_sampler(spec, allowed)
        assert not trap.exists()
        with pytest.raises(InputError, match="subclass"):
            check_sampler(spec, [*allowed, "trap:A"])
        assert trap.exists()

    def test_every_other_sampler_is(self) -> None:
        check_sampler(study({"name": "tpe"}), [])

    @pytest.mark.parametrize(
        ("text", "found"),
        [(None, None), ("", ()), (" ", ()), ("a:A", ("a:A",)), ("a.b:A, c:C a.b:A", ("a.b:A", "c:C"))],
    )
    def test_list_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, text: str | None, found: tuple[str, ...] | None
    ) -> None:
        monkeypatch.delenv(ALLOWED, raising=False)
        if text is not None:
            monkeypatch.setenv(ALLOWED, text)
        assert allowed_classes() == found

    def test_list_with_a_mistake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOWED, "a:A,b")
        with pytest.raises(InputError, match=r"ZTP_ALLOW_SAMPLERS must be module:Class, .* say, got 'b'"):
            allowed_classes()
