"""A whole study: defaults, files, built-ins, overrides, differences, and that reading one loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pruning.errors import ConfigError
from search.config.builtin_studies import builtin_names
from search.config.continuation import differences, smaller_budget
from search.config.spec import StudySpec, check_files, make_spec, read_spec
from search.errors import InputError

CONTRACT = """
name: deit-small-3g
backbone: {name: deit_small_patch16_224, weights: pretrained}
data: {path: /data/imagenet/val, search_images: 5000, confirm_images: 45000, seed: 0}
objectives: {accuracy: top1, throughput: profiled}
budget: {trials: 200, time: 2h, max_gflops: 3.0, min_speedup: null, max_accuracy_drop: null}
space: {mixed: true, max_stages: 12, blocks: null, keep: [0.1, 1.0], wpr_iterations: [1, 5],
  partition: [0.3, 0.7], similarity_share: [0.0, 1.0], exact_savings: true}
sampler: {name: auto, seed: 0}
runtime: {device: auto, dtype: auto, batch_size: 64, workers: 1}
"""
SMALL: dict[str, Any] = {"name": "shirts", "backbone": {"name": "demo"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(CONTRACT)
    return path


def test_reads_the_contracts_example(file: Path) -> None:
    spec = read_spec(str(file))
    assert (spec.name, spec.budget.time, spec.space.blocks) == ("deit-small-3g", 7200.0, None)
    assert make_spec(spec.to_dict(), "again") == spec
    assert make_spec(yaml.safe_load(yaml.safe_dump(spec.to_dict())), "again") == spec


def test_contracts_values_are_the_defaults_but_for_limits() -> None:
    written = make_spec(yaml.safe_load(CONTRACT), "contract")
    least = {
        "name": "deit-small-3g",
        "backbone": {"name": "deit_small_patch16_224"},
        "data": {"path": "/data/imagenet/val"},
    }
    assert differences(make_spec(least, "least"), written) == ["budget.max_gflops: null -> 3.0"]
    assert smaller_budget(make_spec(least, "least"), written) == ["budget.time: null, not 2h"]


def test_demo_backbone_needs_nothing_but_a_name() -> None:
    spec = make_spec(SMALL, "test")
    assert (spec.backbone.weights, spec.data.source, spec.data.path) == ("bundled", "demo", None)


def test_is_frozen_and_hashable() -> None:
    spec = make_spec(SMALL, "test")
    assert hash(spec) == hash(make_spec(SMALL, "test"))
    with pytest.raises(ValidationError, match="frozen"):
        spec.budget.trials = 3  # type: ignore[misc]


def test_options_are_read_back_and_compared_whatever_their_order() -> None:
    listed = {"tome": {"drop": ["block-end"]}, "zero-tprune": {"v_min": [0, 0.1], "split": ["alternate", "random"]}}
    backwards = {method: dict(reversed(options.items())) for method, options in reversed(listed.items())}
    specs = [
        make_spec({**SMALL, "space": {"methods": ["zero-tprune", "tome"], "options": each}}, "test")
        for each in (listed, backwards)
    ]
    assert specs[0] == specs[1] == make_spec(specs[0].to_dict(), "test")
    assert hash(specs[0]) == hash(specs[1])
    assert differences(*specs) == []
    without = make_spec({**SMALL, "space": {"methods": ["zero-tprune", "tome"]}}, "test")
    assert "space.options.tome.drop: null -> ['block-end']" in differences(without, specs[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a study must be a mapping with name and backbone, got None"),
        ([1], "a study must be a mapping with name and backbone, got [1]"),
        ({}, "name is required; name the study"),
        ({"name": "a"}, "backbone is required; for example backbone: {name: deit_small_patch16_224}"),
        ({"name": "a", "backbone": {"name": "vit"}}, "data is required; give data: {path: FOLDER}"),
        ({"nam": "a", "backbone": {"name": "demo"}}, "nam is not a known key, got 'a'; did you mean name?"),
        ({**SMALL, "budgets": {}}, "budgets is not a known key, got {}; did you mean budget?"),
        ({**SMALL, "zzz": 1}, "zzz is not a known key, got 1; known: name, backbone, data"),
        ({**SMALL, 3: 1}, "3 is not a known key, got 3; known: name"),
        (
            {**SMALL, "name": ""},
            "name must be letters, digits, '.', '_' and '-' (at most 100, a letter or digit first)",
        ),
        ({**SMALL, "name": "../x"}, "name must be letters"),
        ({**SMALL, "name": "a" * 101}, "name must be letters"),
        ({**SMALL, "name": "a\n"}, "name must be letters"),
        ({**SMALL, "name": 5}, "name must be text, got 5"),
        (
            {**SMALL, "backbone": {"name": "vit\x1b[2Jtiny"}},
            "backbone.name must be printable text, got '\\x1b' in 'vit\\x1b[2Jtiny'; remove it",
        ),
        ({**SMALL, "backbone": {"name": "vit\ntiny"}}, "backbone.name must be printable text, got '\\n'"),
        ({**SMALL, "backbone": {"name": "vit\u202eynit"}}, "backbone.name must be printable text, got '\\u202e'"),
        (
            {**SMALL, "backbone": {"name": "v" * 20_000}},
            "backbone.name must be at most 4,096 characters, got 20,000; shorten it",
        ),
        ({**SMALL, "data": {"path": "/data/\x07"}}, "data.path must be printable text, got '\\x07'"),
        (
            {**SMALL, "data": {"source": "demo", "class_map": {"a\x1b": 0}}},
            "data.class_map must be printable text, got '\\x1b'",
        ),
        (
            {**SMALL, "sampler": {"name": "custom", "class": "m:C", "options": {"x": ["a\x1b"]}}},
            "sampler.options must be printable text, got '\\x1b'",
        ),
        ({**SMALL, "start": ["b\x1b.yaml"]}, "start must be printable text, got '\\x1b'"),
    ],
)
def test_refuses_with_the_place(data: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_spec(data, "f.yaml")
    assert str(caught.value).startswith(f"f.yaml: {message}")


def test_says_all_that_is_wrong_in_one_line() -> None:
    with pytest.raises(InputError, match=r"budget\.trials must be at least 1, got 0.*; also: budget\.max_"):
        make_spec({**SMALL, "budget": {"trials": 0, "max_gflops": -1}}, "f.yaml")


class TestReading:
    def test_overrides_replace_single_values(self, file: Path) -> None:
        spec = read_spec(str(file), {"budget.trials": 20, "budget.max_gflops": None, "runtime.workers": 2, "name": "b"})
        assert (spec.name, spec.budget.trials, spec.budget.max_gflops, spec.runtime.workers) == ("b", 20, None, 2)
        assert spec.budget.time == 7200.0

    def test_override_of_a_section_the_file_leaves_out(self, tmp_path: Path) -> None:
        path = tmp_path / "small.yaml"
        path.write_text("name: a\nbackbone: {name: demo}\n")
        assert read_spec(str(path), {"budget.time": "30m"}).budget.time == 1800.0

    def test_bad_override_is_refused(self, file: Path) -> None:
        with pytest.raises(InputError, match=r"study\.yaml: budget\.trials must be at least 1, got 0"):
            read_spec(str(file), {"budget.trials": 0})

    def test_section_that_is_no_mapping_is_refused_despite_an_override(self, tmp_path: Path) -> None:
        path = tmp_path / "odd.yaml"
        path.write_text("name: a\nbackbone: {name: demo}\nbudget: 20\n")
        with pytest.raises(InputError, match="budget must be a mapping, got 20"):
            read_spec(str(path), {"budget.trials": 5})

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("missing.yaml", None, "no such file"),
            ("bad.yaml", b"name: [", "must be valid YAML"),
            ("twice.yaml", b"name: a\nname: b\n", "key 'name' stands twice"),
            ("latin.yaml", b"name: \xff", "must be UTF-8"),
        ],
    )
    def test_unreadable_file(self, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}.*{message}"):
            read_spec(str(tmp_path / name))

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            read_spec(str(tmp_path))

    def test_unknown_name_lists_the_built_in_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("search.config.spec.builtin_names", lambda: ["demo", "deit"])
        with pytest.raises(InputError, match=r"built-in study \(demo, deit\), got 'dmeo'; did you mean demo\?"):
            read_spec("dmeo")

    def test_built_in_by_its_bare_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "shipped.yaml").write_text("name: shipped\nbackbone: {name: demo}\n")
        monkeypatch.setattr("search.config.spec.resources.files", lambda package: tmp_path)
        assert builtin_names() == ["shipped"]
        assert read_spec("shipped", {"budget.trials": 3}).budget.trials == 3
        with pytest.raises(InputError, match=r"^shipped: budget\.trials must be at least 1"):
            read_spec("shipped", {"budget.trials": 0})

    def test_every_built_in_is_valid_and_named_like_its_file(self) -> None:
        assert [read_spec(name).name for name in builtin_names()] == builtin_names()


class TestFiles:
    def test_demo_needs_none(self) -> None:
        check_files(make_spec(SMALL, "test"))

    def test_folder_and_weights_that_exist_pass(self, tmp_path: Path) -> None:
        weights = tmp_path / "w.safetensors"
        weights.touch()
        check_files(self.spec(path=str(tmp_path), weights=str(weights)))

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"shirts: data\.path must be an existing folder.*nowhere"):
            check_files(self.spec(path=str(tmp_path / "nowhere")))

    def test_file_for_a_folder(self, file: Path) -> None:
        with pytest.raises(InputError, match=r"data\.path must be a folder of images, .*study\.yaml"):
            check_files(self.spec(path=str(file)))

    @pytest.mark.parametrize("weights", ["w.pth", "."])
    def test_missing_weights(self, tmp_path: Path, weights: str) -> None:
        with pytest.raises(InputError, match=r"backbone\.weights must be pretrained, random or an existing .*got '"):
            check_files(self.spec(path=str(tmp_path), weights=str(tmp_path / weights)))

    def test_a_class_map_is_a_file_that_is_there_or_a_mapping(self, tmp_path: Path) -> None:
        document = self.spec(path=str(tmp_path), weights="random").to_dict()

        def mapped(class_map: Any) -> StudySpec:
            return make_spec({**document, "data": {**document["data"], "class_map": class_map}}, "test")

        assert mapped({1: 0, "cat": "tabby"}).data.class_map == {"1": 0, "cat": "tabby"}
        assert make_spec(mapped({"cat": 3}).to_dict(), "test") == mapped({"cat": 3})
        check_files(mapped({"cat": 3}))
        with pytest.raises(InputError, match=r"data\.class_map must be a mapping or an existing file, got 'map\.txt'"):
            check_files(mapped("map.txt"))
        for wrong in (3, {}, {"cat": 0.5}, ["cat"], {"cat": True}):
            with pytest.raises(
                InputError, match=r"data\.class_map must be a mapping of labels to indices or class names"
            ):
                mapped(wrong)
        with pytest.raises(
            InputError, match=r"data\.class_map must be printable text, got '.x1b' in 'cat.x1b.2J'; remove it"
        ):
            mapped({"cat\x1b[2J": 1})
        with pytest.raises(InputError, match=r"data\.class_map must give indices from 0"):
            mapped({"cat": -1})

    def test_a_folder_with_a_model_is_a_name_or_weights(self, tmp_path: Path) -> None:
        spec = self.spec(path=str(tmp_path), weights=str(tmp_path))
        named = make_spec({**spec.to_dict(), "backbone": {"name": str(tmp_path)}}, "test")
        with pytest.raises(InputError, match=r"backbone\.name must be an existing folder with a model \(config"):
            check_files(named)
        (tmp_path / "config.json").write_text("{}")
        for each in (spec, named):
            check_files(each)

    def spec(self, path: str, weights: str = "random") -> StudySpec:
        backbone = {"name": "deit_small_patch16_224", "weights": weights}
        return make_spec({"name": "shirts", "backbone": backbone, "data": {"path": path}}, "test")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"runtime": {"workers": 8}}, []),
        ({"runtime": {"batch_size": 32}}, ["runtime.batch_size: 64 -> 32"]),
        ({"budget": {"trials": 60, "time": "90m"}}, []),
        ({"budget": {"max_gflops": 2.0}}, ["budget.max_gflops: null -> 2.0"]),
        ({"sampler": {"name": "tpe", "seed": 1}}, ["sampler.name: auto -> tpe", "sampler.seed: 0 -> 1"]),
        ({"space": {"keep": [0.6, 1.0]}}, ["space.keep: [0.1, 1.0] -> [0.6, 1.0]"]),
        ({"space": {"mixed": False}}, ["space.mixed: True -> False"]),
        ({"backbone": {"name": "vit"}, "data": {"path": "x"}}, 5 * [...]),
    ],
)
def test_differences_name_field_old_and_new(change: dict[str, Any], expected: list[Any]) -> None:
    old, new = make_spec(SMALL, "old"), make_spec({**SMALL, **change}, "new")
    found = differences(old, new)
    assert len(found) == len(expected)
    assert all(wanted in (..., line) for wanted, line in zip(expected, found, strict=True))


def test_differences_see_keys_that_only_one_side_has() -> None:
    """Options that are not listed have their default, so who lists some says something of the others, too."""
    methods = {"methods": ["tome", "random"]}
    tome, seeds = {"tome": {"drop": ["block-end"]}}, {"random": {"seed": [1, 2]}}
    both, one = (make_spec({**SMALL, "space": {**methods, "options": o}}, "test") for o in (tome | seeds, tome))
    assert differences(both, one) == ["space.options.random.seed: [1, 2] -> null"]
    assert differences(one, both) == ["space.options.random.seed: null -> [1, 2]"]
    sized = make_spec({"name": "shirts", "backbone": {"name": "vit", "img_size": 96}, "data": {"path": "x"}}, "test")
    plain = make_spec({"name": "shirts", "backbone": {"name": "vit"}, "data": {"path": "x"}}, "test")
    assert differences(plain, sized) == ["backbone.img_size: null -> 96"]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import search.config.spec, search.storage.store",
            ["torch", "optuna", "timm", "alembic", "matplotlib", "plotly"],
        ),
        (
            "import search.config.space, search.samplers.registry, search.storage.optuna_storage",
            ["torch", "timm", "sklearn", "pandas"],
        ),
    ],
)
def test_reading_a_study_loads_nothing_heavy(statement: str, absent: list[str]) -> None:
    code = f"import sys; {statement}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
