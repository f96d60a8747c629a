"""Each field of a study: what it takes, and what the message says about what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from search.config.field_types import format_duration, parse_duration
from search.config.sections import DEMO_SPLIT, BackboneSpec, BudgetSpec
from search.config.spec import make_spec
from search.errors import InputError

NAN, INFINITY = float("nan"), float("inf")


def study(section: str, value: Any) -> dict[str, Any]:
    return {"name": "shirts", "backbone": {"name": "demo"}, section: value}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("0.5s", 0.5), ("1.5h", 5400), ("0.0000001s", 1e-7), (None, None)],
)
def test_duration_in_seconds(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0s", "-1m", "1d", "1 h", "h", "2h30m", "inf", 30, 30.0, True, ["2h"]])
def test_not_a_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="90s, 30m or 2h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7200, "2h"), (5400, "90m"), (90, "90s"), (61, "61s"), (0.25, "0.25s"), (1e-7, "0.0000001s"), (86400, "24h")],
)
def test_duration_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(float(seconds)) == text
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        # backbone
        ("backbone", "demo", "backbone must be a mapping, got 'demo'; for example backbone: {name: deit_"),
        ("backbone", {}, "backbone.name is required; give a timm name, or demo"),
        ("backbone", {"name": ""}, "backbone.name must not be empty, got ''"),
        ("backbone", {"name": 3}, "backbone.name must be text, got 3"),
        (
            "backbone",
            {"name": "demo", "wieghts": "x"},
            "backbone.wieghts is not a known key, got 'x'; did you mean weights?",
        ),
        ("backbone", {"name": "demo", "weights": "random"}, "backbone.weights must be bundled .* got 'random'; remove"),
        ("backbone", {"name": "vit", "weights": "bundled"}, "backbone.weights must be pretrained, .* got bundled"),
        # data
        ("data", {}, "data must have either path .* or source: demo, got neither"),
        ("data", {"path": "a", "source": "demo"}, "data must have either path .* or source: demo, got both"),
        ("data", {"path": ""}, "data.path must not be empty"),
        ("data", {"source": "imagenet"}, "data.source must be 'demo', got 'imagenet'; the default is null"),
        ("data", {"path": "a", "search_images": 0}, "data.search_images must be at least 1, got 0"),
        ("data", {"path": "a", "confirm_images": -5}, "data.confirm_images must be at least 1, got -5"),
        (
            "data",
            {"source": "demo", "search_images": 2001},
            "data must ask for at most 10000 bundled images, got .*2001",
        ),
        ("data", {"path": "a", "seed": -1}, "data.seed must be at least 0, got -1; the default is 0"),
        ("data", {"path": "a", "skip_corrupt": "yes"}, "data.skip_corrupt must be true or false, got 'yes'"),
        # objectives
        (
            "objectives",
            {"accuracy": "top5"},
            "objectives.accuracy must be 'top1', 'agreement', 'knn', 'zero-shot' or 'embedding', got 'top5'",
        ),
        (
            "objectives",
            {"throughput": "guess"},
            "objectives.throughput must be 'profiled', 'measured' or 'onnxruntime', got 'guess'",
        ),
        ("objectives", {"latency": 1}, "objectives.latency is not a known key, got 1; known: accuracy, throughput"),
        # budget
        ("budget", None, "budget must be a mapping, got None"),
        ("budget", {"trials": 0}, "budget.trials must be at least 1, got 0; the default is 200"),
        ("budget", {"trials": 1.5}, "budget.trials must be a whole number, got 1.5"),
        ("budget", {"trials": "20"}, "budget.trials must be a whole number, got '20'"),
        ("budget", {"trials": True}, "budget.trials must be a whole number, got True"),
        ("budget", {"time": 30}, "budget.time must be a duration above zero .* got 30"),
        ("budget", {"time": "0s"}, "budget.time must be a duration above zero .* got '0s'"),
        ("budget", {"time": "9" * 400 + "h"}, "budget.time must be a finite number"),
        ("budget", {"max_gflops": 0}, "budget.max_gflops must be above 0, got 0; the default is null"),
        ("budget", {"max_gflops": NAN}, "budget.max_gflops must be a finite number, got nan"),
        ("budget", {"max_gflops": "3G"}, "budget.max_gflops must be a number, got '3G'"),
        ("budget", {"min_speedup": -1}, "budget.min_speedup must be above 0, got -1"),
        ("budget", {"min_speedup": INFINITY}, "budget.min_speedup must be a finite number, got inf"),
        ("budget", {"max_accuracy_drop": 1.5}, "budget.max_accuracy_drop must be at most 1, got 1.5"),
        ("budget", {"max_accuracy_drop": -0.1}, "budget.max_accuracy_drop must be at least 0, got -0.1"),
        ("budget", {"max_gflop": 3}, "budget.max_gflop is not a known key, got 3; did you mean max_gflops?"),
        # space
        ("space", {"methods": []}, "space.methods must be a list of one or more of zero-tprune, .* got \\[\\]"),
        ("space", {"methods": "random"}, "space.methods must be a list of one or more of .* got 'random'"),
        ("space", {"methods": ["evit"]}, "space.methods must hold only known methods .*zero-tprune.* got \\['evit'\\]"),
        ("space", {"methods": [3]}, "space.methods must hold only known methods"),
        ("space", {"methods": ["random", "random"]}, "space.methods must name each method once"),
        ("space", {"options": []}, "space.options must be a mapping from method to option to values, .* got \\[\\]"),
        (
            "space",
            {"methods": ["zero-tprune"], "options": {"tome": {"drop": ["block-end"]}}},
            "space.options must be for methods that are searched \\(zero-tprune\\), got 'tome'",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"splits": ["alternate"]}}},
            "space.options must hold only what zero-tprune takes: options.splits is not an option of method",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"split": ["alternative"]}}},
            "space.options must hold only what zero-tprune takes: options.split must be one of .* got 'alternative'",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"v_min": [0.1, 0.9]}}},
            "space.options must hold only what zero-tprune takes: options.v_min must be at most v_max, got 0.9 > 0.7",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"split": "alternate"}}},
            "space.options must list one or more values for each option of zero-tprune, got {'split': 'alternate'}",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"split": []}}},
            "space.options must list one or more values for each option",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"seed": [1, 2, 1]}}},
            "space.options must name each value once, got \\[1, 2, 1\\] for seed of zero-tprune",
        ),
        (
            "space",
            {"options": {"zero-tprune": {"seed": list(range(257))}}},
            "space.options must leave at most 256 combinations for zero-tprune, got 257; list fewer",
        ),
        (
            "space",
            {"methods": ["tome"], "keep": [0.1, 0.4]},
            "space must keep up to 0.5 or more for tome, which merges tokens in pairs, got keep \\[0.1, 0.4\\]; raise",
        ),
        ("space", {"max_stages": 0}, "space.max_stages must be at least 1, got 0; the default is 12"),
        (
            "space",
            {"max_stages": 3, "blocks": [2, 3]},
            "space must have at most one stage per block, .*stages 3 for the 2",
        ),
        ("space", {"mixed": 1}, "space.mixed must be true or false, got 1; the default is True"),
        ("space", {"exact_savings": "no"}, "space.exact_savings must be true or false, got 'no'; the default is True"),
        ("space", {"revision": 0}, "space.revision must be at least 1, got 0"),
        ("space", {"revision": 99}, "space.revision must be at most \\d+, got 99"),
        ("space", {"blocks": [5, 2]}, "space.blocks must be \\[low, high\\] with low at most high, got \\[5, 2\\]"),
        ("space", {"blocks": [-1, 2]}, "space.blocks must hold whole numbers from 0"),
        ("space", {"blocks": [0.0, 2]}, "space.blocks must be \\[low, high\\], two whole numbers"),
        ("space", {"blocks": [1, 2, 3]}, "space.blocks must be \\[low, high\\], two whole numbers"),
        ("space", {"keep": [0, 1]}, "space.keep must hold numbers in \\(0, 1\\], got \\[0, 1\\]"),
        ("space", {"keep": [0.5, 1.4]}, "space.keep must hold numbers in \\(0, 1\\], got \\[0.5, 1.4\\]"),
        ("space", {"keep": 0.7}, "space.keep must be \\[low, high\\], two numbers in .* got 0.7"),
        ("space", {"keep": [0.9, 0.5]}, "space.keep must be \\[low, high\\] with low at most high"),
        ("space", {"keep": [1, 1.0]}, "space.keep must reach below 1, or nothing would ever be pruned"),
        ("space", {"keep": [0.5, NAN]}, "space.keep must hold numbers in"),
        ("space", {"keep": ["a", "b"]}, "space.keep must be \\[low, high\\], two numbers"),
        ("space", {"wpr_iterations": [0, 5]}, "space.wpr_iterations must hold whole numbers in 1..100"),
        ("space", {"wpr_iterations": [1, 101]}, "space.wpr_iterations must hold whole numbers in 1..100"),
        ("space", {"wpr_iterations": [1, 5.0]}, "space.wpr_iterations must be \\[low, high\\], two whole numbers"),
        ("space", {"wpr_iterations": [True, 5]}, "space.wpr_iterations must be \\[low, high\\], two whole numbers"),
        ("space", {"partition": [0, 0.5]}, "space.partition must hold numbers in \\(0, 1\\), got \\[0, 0.5\\]"),
        ("space", {"partition": [0.5, 1]}, "space.partition must hold numbers in \\(0, 1\\)"),
        ("space", {"similarity_share": [0, 1.1]}, "space.similarity_share must hold numbers in \\[0, 1\\]"),
        # sampler
        (
            "sampler",
            {"name": "gp"},
            "sampler.name must be one of auto, tpe, nsga2, random, custom, got 'gp'; the default is auto",
        ),
        ("sampler", {"seed": 2**32}, "sampler.seed must be below 4294967296"),
        ("sampler", {"probes": -1}, "sampler.probes must be at least 0"),
        # racing
        ("racing", {"alpha": -0.01}, "racing.alpha must be at least 0, got -0.01; the default is 0.05"),
        ("racing", {"alpha": 1}, "racing.alpha must be below 1, got 1"),
        ("racing", {"alpha": NAN}, "racing.alpha must be a finite number, got nan"),
        ("racing", {"alpha": False}, "racing.alpha must be a number, got False"),
        ("racing", {"alpha": None}, "racing.alpha must be a number, got None"),
        ("racing", {"tolerance": -0.001}, "racing.tolerance must be at least 0, got -0.001; the default is 0.0025"),
        ("racing", {"tolerance": 1.1}, "racing.tolerance must be at most 1, got 1.1"),
        ("racing", {"strata": 0}, "racing.strata must be at least 1, got 0; the default is 10"),
        ("racing", {"strata": 101}, "racing.strata must be at most 100, got 101"),
        ("racing", {"strata": 2.0}, "racing.strata must be a whole number, got 2.0"),
        ("racing", {"tolerence": 0}, "racing.tolerence is not a known key, got 0; did you mean tolerance?"),
        # runtime
        (
            "runtime",
            {"device": "gpu"},
            "runtime.device must be auto, cpu, mps, cuda or cuda:N, got 'gpu'; the default is auto",
        ),
        ("runtime", {"device": "cpu\n"}, "runtime.device must be auto, cpu"),
        ("runtime", {"dtype": "int8"}, "runtime.dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got 'int8'"),
        ("runtime", {"batch_size": 0}, "runtime.batch_size must be at least 1, got 0; the default is 64"),
        ("runtime", {"workers": 0}, "runtime.workers must be at least 1, got 0"),
    ],
)
def test_message_names_place_field_rule_and_value(section: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^study.yaml: {message}"):
        make_spec(study(section, value), "study.yaml")


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("data", {"path": "images", "search_images": 10, "confirm_images": 10**6, "skip_corrupt": True}),
        ("data", {"source": "demo", "search_images": 9999, "confirm_images": 1}),
        ("budget", {"trials": 1, "time": "90s", "max_gflops": 3, "min_speedup": 1.5, "max_accuracy_drop": 0}),
        ("space", {"methods": ["random", "zero-tprune"], "max_stages": 1, "blocks": [3, 3], "keep": [0.7, 0.7]}),
        ("space", {"blocks": None, "wpr_iterations": [1, 100], "partition": [0.01, 0.99]}),
        ("space", {"mixed": True, "methods": ["random", "tome"], "exact_savings": False, "revision": 1}),
        ("space", {"blocks": [2, 4]}),  # fewer than there are stages by default
        ("sampler", {"name": "nsga2", "seed": 2**32 - 1}),
        ("sampler", {"name": "auto", "probes": 0}),
        ("racing", {"alpha": 0, "tolerance": 0, "strata": 1}),
        ("racing", {"alpha": 0.999, "tolerance": 1, "strata": 100}),
        ("runtime", {"device": "cuda:1", "dtype": "bfloat16", "batch_size": 1, "workers": 16}),
    ],
)
def test_whatever_is_allowed_comes_back_the_same(section: str, value: Any) -> None:
    spec = make_spec(study(section, value), "test")
    assert make_spec(spec.to_dict(), "again") == spec
    assert {key: spec.to_dict()[section][key] for key in value} == value


def test_weights_follow_the_backbone() -> None:
    assert BackboneSpec.model_validate({"name": "demo"}).weights == "bundled"
    assert BackboneSpec.model_validate({"name": "deit_small_patch16_224"}).weights == "pretrained"
    assert BackboneSpec.model_validate({"name": "deit_small_patch16_224", "weights": "w.pth"}).weights == "w.pth"


def test_splits_follow_the_source() -> None:
    demo = make_spec(study("data", {"source": "demo"}), "test").data
    folder = make_spec(study("data", {"path": "images"}), "test").data
    assert (demo.search_images, demo.confirm_images) == tuple(DEMO_SPLIT.values()) == (2000, 8000)
    assert (folder.search_images, folder.confirm_images) == (5000, 45000)


def test_options_vary_by_default_where_neither_methods_nor_options_are_listed() -> None:
    def options(**space: Any) -> Any:
        return make_spec(study("space", space), "test").space.options

    assert options() == options(max_stages=3) != {}
    assert options(methods=["zero-tprune"]) == options(options={}) == {}
    assert make_spec(study("space", {"max_stages": 3}), "test").given()["space"] == {"max_stages": 3}


def test_most_stages_by_default_are_no_more_than_the_blocks() -> None:
    assert make_spec(study("space", {"blocks": [2, 4]}), "test").space.max_stages == 3
    assert make_spec(study("space", {"blocks": [0, 30]}), "test").space.max_stages == 12


def test_racing_by_default() -> None:
    spec = make_spec({"name": "shirts", "backbone": {"name": "demo"}}, "test")
    assert spec.to_dict()["racing"] == {"alpha": 0.05, "tolerance": 0.0025, "strata": 10}


@pytest.mark.parametrize(
    ("backbone", "rule"),
    [
        ({"name": "test_vit", "img_size": 0}, r"backbone\.img_size must be at least 1, got 0; the default is null"),
        ({"name": "test_vit", "img_size": "96"}, r"backbone\.img_size must be a whole number of pixels, got '96'"),
        ({"name": "test_vit", "patch_size": 8.5}, r"backbone\.patch_size must be a whole number of pixels, got 8\.5"),
        ({"name": "demo", "img_size": 56}, r"backbone\.img_size must be left out for the backbone demo.*got 56"),
        (
            {"name": "test_vit", "weights_key": "model"},
            r"weights_key must be left out unless backbone.weights is a file",
        ),
        ({"name": "test_vit", "weights": "w.pth", "weights_key": ""}, r"backbone\.weights_key must"),
        ({"name": "test_vit", "image_size": 96}, r"image_size is not a known key.*did you mean img_size\?"),
    ],
)
def test_sizes_of_a_backbone_are_checked(backbone: dict[str, Any], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        make_spec({"name": "x", "backbone": backbone, "data": {"path": "d"}}, "place")


def test_sizes_are_in_the_document_only_if_asked_for() -> None:
    def document(**sizes: int) -> dict[str, Any]:
        return make_spec({"name": "x", "backbone": {"name": "a", **sizes}, "data": {"path": "d"}}, "p").to_dict()

    assert document()["backbone"] == {"name": "a", "weights": "pretrained"}
    sized = document(img_size=96)
    assert sized["backbone"] == {"name": "a", "weights": "pretrained", "img_size": 96}
    assert make_spec(sized, "p").to_dict() == sized


@pytest.mark.parametrize(
    ("given", "trials"),
    [
        ({}, 200),
        ({"time": None}, 200),
        ({"time": "20m"}, 10_000),
        ({"time": "20m", "trials": 50}, 50),
    ],
)
def test_a_budget_of_time_alone_is_not_ended_by_trials(given: dict[str, Any], trials: int) -> None:
    assert BudgetSpec.model_validate(given).trials == trials
