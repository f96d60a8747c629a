"""The table of pruning methods: what each is called, which stage fields it reads, which options it has.

The rows are plain data and the classes load on first use, so that schedules can be checked without torch.
To add a method: write one file here with a subclass of `pruning.methods.base.TokenMethod`, add a row, and run
`pytest tests/contracts/test_methods.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruning.errors import ScheduleError
from pruning.stage import LEAST_PAIRED, StagePlan, Steps

if TYPE_CHECKING:
    from pruning.methods.base import TokenMethod


DROPS = ("block-end", "before-mlp")


def _always(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return True


_MAX_VARIANCE = 1e6  # above N - 1, the most that scores of mean 1 can vary; finite, for JSON


@dataclass(frozen=True)
class Option:
    """One method option. `choices` lists the values of a named option; numbers have a closed range instead.

    at_most: the option whose value this one's may not exceed. matters: whether its value changes which tokens stay,
    given all options and the stages' counts; one that does not is no part of a schedule's key.
    """

    default: bool | int | float | str
    help: str
    choices: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    at_most: str = ""
    matters: Callable[[Mapping[str, Any], Sequence[StagePlan]], bool] = _always

    def check(self, name: str, value: Any) -> bool | int | float | str:
        """Return `value` in the option's own type. Raises ScheduleError naming option, rule and value."""
        if self.choices:
            if value not in self.choices:
                raise ScheduleError(f"options.{name} must be one of {', '.join(self.choices)}, got {value!r}")
            return str(value)
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ScheduleError(f"options.{name} must be true or false, got {value!r}")
            return value
        kind = type(self.default)
        fits = type(value) is int or (kind is float and type(value) is float)
        if not fits or not self.low <= value <= self.high:
            noun = "a whole number" if kind is int else "a number"
            raise ScheduleError(f"options.{name} must be {noun} in [{self.low}, {self.high}], got {value!r}")
        return kind(value)


@dataclass(frozen=True)
class Method:
    """A row of METHODS.

    implementation: "module:Class" of the tensor code.
    stage_fields: the fields of `Stage` beyond block and keep that change what the method does.
    pairs: whether all that leave merge in pairs with what stays, so that at most half of a stage's tokens may leave.
    """

    implementation: str
    summary: str
    stage_fields: frozenset[str] = frozenset()
    options: Mapping[str, Option] = field(default_factory=dict)
    pairs: bool = False

    @property
    def least_keep(self) -> float:
        """The least `keep` of a stage that the method can deliver for any number of tokens; 0 for any."""
        return LEAST_PAIRED if self.pairs else 0.0

    def steps(self, options: Mapping[str, Any]) -> Steps:
        """What a stage's counts follow from, under these options."""
        return Steps(
            similarity=self.pairs or ("similarity_share" in self.stage_fields and options.get("similarity", True)),
            importance=not self.pairs and options.get("importance", True),
            votes="wpr_iterations" in self.stage_fields,
            partition="partition" in self.stage_fields,
            pairs=self.pairs,
        )

    def check_options(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that differ from the defaults, sorted by name. Raises ScheduleError."""
        for key in given:
            if key not in self.options:
                known = ", ".join(sorted(self.options))
                raise ScheduleError(f"options.{key} is not an option of method {name}; its options: {known}")
        checked = {key: self.options[key].check(key, value) for key, value in sorted(given.items())}
        everything = self.all_options(checked)
        for key, option in self.options.items():
            bound = everything.get(option.at_most)
            if bound is not None and everything[key] > bound:
                raise ScheduleError(f"options.{key} must be at most {option.at_most}, got {everything[key]} > {bound}")
        return {key: value for key, value in checked.items() if value != self.options[key].default}

    def all_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: the given ones, else the defaults."""
        return {key: given.get(key, option.default) for key, option in self.options.items()}

    def effective_options(self, given: Mapping[str, Any], plans: Sequence[StagePlan]) -> dict[str, Any]:
        """Of the given options, those that change what stages of these counts do."""
        everything = self.all_options(given)
        return {key: value for key, value in given.items() if self.options[key].matters(everything, plans)}


def _in_counts(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return False  # what this option does is in the stages' counts


def _if_split(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.similar for plan in plans)


def _if_matched(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(0 < plan.similar < plan.candidates for plan in plans)  # who drops all candidates need not compare


def _if_drawn(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["split"] == "random" and _if_split(options, plans)


def _if_ranked(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.unimportant or (plan.similar and options["split"] != "random") for plan in plans)


def _if_filtered(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["head_filter"] and _if_ranked(options, plans)


def _drop(default: str = DROPS[0]) -> dict[str, Option]:
    """The option that every method has."""
    return {"drop": Option(default, "where tokens leave: after the block, or before its MLP", choices=DROPS)}


METHODS: dict[str, Method] = {
    "zero-tprune": Method(
        implementation="pruning.methods.zero_tprune:ZeroTPrune",
        summary="weighted page rank and similarity on the attention graph (Wang et al., CVPR 2024)",
        stage_fields=frozenset({"wpr_iterations", "partition", "similarity_share"}),
        options=_drop()
        | {
            "similarity": Option(True, "take the similarity step S", matters=_in_counts),
            "importance": Option(True, "take the importance step I", matters=_in_counts),
            "feature": Option(
                "key", "what similarity compares", choices=("key", "query", "value", "input"), matters=_if_matched
            ),
            "metric": Option("cosine", "how it compares", choices=("cosine", "dot", "euclidean"), matters=_if_matched),
            "split": Option(
                "sequential",
                "how candidates are chosen",
                choices=("sequential", "alternate", "random"),
                matters=_if_split,
            ),
            "aggregation": Option("eir", "scores over heads", choices=("eir", "mean"), matters=_if_ranked),
            "class_start": Option(True, "start the votes with sqrt(N) on the class token", matters=_if_ranked),
            "head_filter": Option(
                False, "ignore heads whose score variance is outside [v_min, v_max]", matters=_if_ranked
            ),
            "v_min": Option(
                0.01,
                "lowest variance of a head that counts",
                low=0.0,
                high=_MAX_VARIANCE,
                at_most="v_max",
                matters=_if_filtered,
            ),
            "v_max": Option(
                0.7, "highest variance of a head that counts", low=0.0, high=_MAX_VARIANCE, matters=_if_filtered
            ),
            "seed": Option(0, "seed of the random split", low=0, high=2**31 - 1, matters=_if_drawn),
        },
    ),
    "tome": Method(
        implementation="pruning.methods.tome:ToMe",
        summary="merges the most similar of alternate tokens (Bolya et al., ICLR 2023)",
        options=_drop("before-mlp"),
        pairs=True,
    ),
    "pitome": Method(
        implementation="pruning.methods.pitome:PiToMe",
        summary="merges among tokens with many near copies, protects isolated ones (Tran et al., NeurIPS 2024)",
        options=_drop("before-mlp")
        | {
            "margin": Option(0.9, "cosine from which two tokens count as near copies", low=-1.0, high=1.0),
            "margin_falls": Option(True, "lower the margin in proportion to depth, to 0 at the end"),
        },
        pairs=True,
    ),
    "diffrate": Method(
        implementation="pruning.methods.diffrate:DiffRate",
        summary="drops what the class token attends to least, merges what comes next (Chen et al., ICCV 2023)",
        stage_fields=frozenset({"similarity_share"}),
        options=_drop("before-mlp"),
    ),
    "cls-attention": Method(
        implementation="pruning.methods.cls_attention:ClassAttention",
        summary="keeps what the class token attends to (Top-K; EViT without training, Liang et al., ICLR 2022)",
        options=_drop() | {"fuse": Option(False, "one of the kept tokens is the weighted mean of the dropped ones")},
    ),
    "hatp": Method(
        implementation="pruning.methods.hatp:MeanTokenPruning",
        summary="keeps what is attended to and has large values, and one mean of the rest (Eliopoulos et al., 2024)",
        options=_drop(),
    ),
    "random": Method(
        implementation="pruning.methods.random:RandomDrop",
        summary="keeps tokens uniformly at random; the baseline",
        options=_drop() | {"seed": Option(0, "seed of the draw", low=0, high=2**31 - 1)},
    ),
}


def method_row(name: object) -> Method:
    """Look a method up. Raises ScheduleError listing the known ones."""
    if not isinstance(name, str) or name not in METHODS:
        raise ScheduleError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def load_method(name: str, options: Mapping[str, Any]) -> TokenMethod:
    """The tensor code of a method, with its options filled in. Loads torch."""
    row = method_row(name)
    module, _, cls = row.implementation.partition(":")
    everything = row.all_options(options)
    drop = everything.pop("drop")
    method: TokenMethod = getattr(import_module(module), cls)(**everything)
    method.drop = drop
    return method
