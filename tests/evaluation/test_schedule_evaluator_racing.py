"""The evaluator and racing: which images are seen first, when it stops, and what is then known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pruning.backbones import Backbone
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.calibration import Calibration
from search.evaluation.image_sampling import stratify, unpack_strata
from search.evaluation.racing import Race, Requirement, estimate
from search.evaluation.regression_estimator import guess
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.types import Throughput

Maker = Callable[..., Any]
IMAGES = 72
DRASTIC = Schedule([Stage(0, 0.04)])
TIMED = Throughput(100.0, 1.0, "profiled")


@pytest.fixture(scope="module")
def opened(
    make_evaluator: Maker, small_spec: Maker, backbone: Backbone, facts_of: Maker
) -> Callable[..., ScheduleEvaluator]:
    """opened(facts={...}, section={...}): an evaluator of 72 images with its facts."""

    def make(facts: dict[str, Any] | None = None, **sections: Any) -> ScheduleEvaluator:
        sections["data"] = {"search_images": IMAGES, **sections.get("data", {})}
        sections["runtime"] = {"batch_size": 8, **sections.get("runtime", {})}
        evaluator: ScheduleEvaluator = make_evaluator(backbone, small_spec(**sections))
        evaluator.use(facts_of(evaluator, **(facts or {})))
        return evaluator

    return make


@pytest.fixture(scope="module")
def stratified(opened: Callable[..., ScheduleEvaluator]) -> ScheduleEvaluator:
    """As after a launch; one for all tests, since an evaluator only remembers what it would find again."""
    evaluator = opened()
    evaluator.stratify()
    return evaluator


def race(evaluator: ScheduleEvaluator, gain: float, alpha: float = 0.05) -> Race:
    dense = evaluator.bits(evaluator.measure(UNTOUCHED, TIMED))
    return Race((Requirement(dense, gain),), alpha, dense)


class TestFacts:
    def test_strata_are_of_the_dense_models_margins_and_errors(self, stratified: ScheduleEvaluator) -> None:
        classes, margins = stratified.context.evaluator(stratified.context.search_split).dense()
        wrong = classes != stratified.context.search_split.labels
        expected = stratify(margins, wrong, stratified.spec.racing.strata)
        assert 0 < wrong.sum() < IMAGES / 2
        assert unpack_strata(stratified.calibration.strata).tolist() == expected.tolist()

    def test_with_agreement_the_dense_model_is_never_wrong(self, opened: Callable[..., ScheduleEvaluator]) -> None:
        evaluator = opened(objectives={"accuracy": "agreement"})
        assert np.bincount(unpack_strata(evaluator.stratify().strata)).max() <= IMAGES // 10 + 1
        assert evaluator._dense_correct is not None
        assert evaluator._dense_correct.all()

    def test_round_trip(self, stratified: ScheduleEvaluator, opened: Callable[..., ScheduleEvaluator]) -> None:
        """Another worker reads the facts and sees the images in the same order."""
        again = Calibration.from_dict(stratified.calibration.to_dict())
        assert again == stratified.calibration
        other = opened()
        other.use(again)
        assert other.order.positions.tolist() == stratified.order.positions.tolist()
        assert other.order.weights.tolist() == stratified.order.weights.tolist()

    def test_from_before_there_were_strata(self, opened: Callable[..., ScheduleEvaluator], facts_of: Maker) -> None:
        evaluator = opened()
        old = facts_of(evaluator).to_dict()
        del old["strata"]
        evaluator.use(Calibration.from_dict(old))
        assert set(evaluator.order.weights) == {1.0}
        assert sorted(evaluator.order.positions) == list(range(IMAGES))
        assert evaluator.measure(DRASTIC, TIMED).complete

    def test_order_is_of_the_studys_seed(self, opened: Callable[..., ScheduleEvaluator]) -> None:
        one, same, other = (opened(data={"seed": seed}).order.positions.tolist() for seed in (1, 1, 2))
        assert one == same != other

    def test_dense_model_is_not_run_twice(self, stratified: ScheduleEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        """What stratifying has seen of it is its measurement, the same as running it as a trial."""
        quick = stratified.measure(UNTOUCHED, TIMED)
        monkeypatch.setattr(stratified, "_dense_correct", None)
        assert stratified.measure(UNTOUCHED, TIMED) == quick


class TestMeasure:
    @pytest.mark.parametrize("which", ["none", "no hurdles", "alpha 0"])
    def test_sees_all_images_without_a_race(self, stratified: ScheduleEvaluator, which: str) -> None:
        dense = np.ones(IMAGES, bool)
        races = {
            "none": None,
            "no hurdles": Race((), 0.05, dense),
            "alpha 0": Race((Requirement(dense, 0.9),), 0.0, dense),
        }
        found = stratified.measure(DRASTIC, TIMED, races[which])
        assert found.complete
        assert found.accuracy.images == IMAGES
        whole = stratified.context.evaluator(stratified.context.search_split).correct(DRASTIC)
        assert stratified.bits(found).tolist() == whole.tolist()
        assert found.accuracy.value == whole.mean()

    def test_order_of_images_does_not_show_in_a_whole_measurement(
        self, stratified: ScheduleEvaluator, opened: Callable[..., ScheduleEvaluator]
    ) -> None:
        assert stratified.order.positions.tolist() != opened().order.positions.tolist()
        assert stratified.measure(DRASTIC, TIMED) == opened().measure(DRASTIC, TIMED)

    def test_stops_where_the_front_is_out_of_reach(self, stratified: ScheduleEvaluator) -> None:
        whole = stratified.measure(DRASTIC, TIMED)
        found = stratified.measure(DRASTIC, TIMED, race(stratified, 0.0025))
        assert not found.complete
        assert found.accuracy.images <= IMAGES / 2
        assert found.accuracy.images % 8 == 0
        assert found.accuracy.low <= whole.accuracy.value <= found.accuracy.high
        assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
        assert (found.key, found.identity, found.flops) == (whole.key, whole.identity, whole.flops)

    def test_pairs_images_with_the_dense_models_answers(self, stratified: ScheduleEvaluator) -> None:
        against = race(stratified, 0.0025)
        found, order = stratified.measure(DRASTIC, TIMED, against).accuracy, stratified.order
        seen = stratified.bits(stratified.measure(DRASTIC, TIMED))[order.positions][: found.images]
        dense = np.array([against.dense[position] for position in order.positions])
        assert (found.value, found.low, found.high) == estimate(order, seen, dense)

    def test_what_was_seen_is_kept_and_the_rest_is_false(self, stratified: ScheduleEvaluator) -> None:
        found = stratified.measure(DRASTIC, TIMED, race(stratified, 0.0025))
        whole = stratified.bits(stratified.measure(DRASTIC, TIMED))
        seen = np.zeros(IMAGES, bool)
        seen[stratified.order.positions[: found.accuracy.images]] = True
        assert stratified.bits(found).tolist() == (whole & seen).tolist()

    def test_goes_on_where_it_may_reach_the_front(self, stratified: ScheduleEvaluator) -> None:
        assert stratified.measure(DRASTIC, TIMED, race(stratified, -1.0)).complete


class TestProbe:
    """8 of the 72 images, in batches of 8, are the share that a look sees."""

    def probe(self, evaluator: ScheduleEvaluator, schedule: Schedule = DRASTIC) -> Any:
        return evaluator.probe(schedule, 1, race(evaluator, 0.0).dense)

    def test_is_what_the_first_images_say(self, stratified: ScheduleEvaluator) -> None:
        found, order = self.probe(stratified), stratified.order
        assert (found.schedule, found.images) == (DRASTIC, 8)
        whole = stratified.bits(stratified.measure(DRASTIC, TIMED))[order.positions]
        dense = race(stratified, 0.0).dense[order.positions]
        assert (found.accuracy, found.error) == guess(order, whole[:8], dense)

    def test_measuring_goes_on_from_there(
        self, opened: Callable[..., ScheduleEvaluator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator, plain = opened(), opened()
        dense = race(evaluator, 0.0).dense
        batches: list[int] = []
        real = evaluator._searcher.batch_scores
        monkeypatch.setattr(evaluator._searcher, "batch_scores", lambda n, at: batches.append(n) or real(n, at))
        assert evaluator.probe(DRASTIC, 1, dense) == evaluator.probe(DRASTIC, 1, dense)
        assert batches == [0]
        assert evaluator.measure(DRASTIC, TIMED) == plain.measure(DRASTIC, TIMED)
        assert batches == list(range(9))

    def test_another_look_goes_on_where_the_last_one_ended(
        self, opened: Callable[..., ScheduleEvaluator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator = opened()
        dense = race(evaluator, 0.0).dense
        batches: list[int] = []
        real = evaluator._searcher.batch_scores
        monkeypatch.setattr(evaluator._searcher, "batch_scores", lambda n, at: batches.append(n) or real(n, at))
        found = [evaluator.probe(DRASTIC, looks, dense) for looks in (1, 2, 4)]
        assert [(probe.images, probe.looks) for probe in found] == [(8, 1), (16, 2), (32, 4)]
        assert batches == [0, 1, 2, 3]
        assert found[2] == opened().probe(DRASTIC, 4, dense)

    def test_sees_half_of_the_split_at_most(self, stratified: ScheduleEvaluator) -> None:
        found = stratified.probe(DRASTIC, 8, race(stratified, 0.0).dense)
        assert (found.images, found.looks) == (32, 4)

    def test_is_judged_beside_what_others_got_right(self, stratified: ScheduleEvaluator) -> None:
        """One of whom is the schedule itself: its accuracy on all images is nearly known from the first."""
        dense = race(stratified, 0.0).dense
        whole = stratified.bits(stratified.measure(DRASTIC, TIMED))
        told = stratified.probe(DRASTIC, 4, dense, [dense, whole])
        assert abs(told.accuracy - whole.mean()) < abs(self.probe(stratified).accuracy - whole.mean())
        order, seen = stratified.order, whole[stratified.order.positions]
        others = np.stack([dense, whole])[:, order.positions]
        assert (told.accuracy, told.error) == guess(order, seen[:32], dense[order.positions], others)

    def test_is_no_evidence_for_who_was_chosen_by_it(self, stratified: ScheduleEvaluator) -> None:
        """The same race stops later."""
        against = race(stratified, 0.0025)
        early = stratified.measure(DRASTIC, TIMED, against)
        late = stratified.measure(DRASTIC, TIMED, against, chosen_on=8)
        assert early.accuracy.images <= late.accuracy.images
        assert late.accuracy.images > 8

    @pytest.mark.parametrize(("images", "batch", "expected"), [(72, 8, 8), (72, 2, 6), (72, 18, 18), (72, 24, 0)])
    def test_is_of_whole_batches_and_of_a_large_split_alone(
        self, opened: Callable[..., ScheduleEvaluator], images: int, batch: int, expected: int
    ) -> None:
        assert opened(data={"search_images": images}, runtime={"batch_size": batch}).probe_images == expected

    def test_is_forgotten_with_the_batch_size(self, opened: Callable[..., ScheduleEvaluator]) -> None:
        evaluator = opened()
        self.probe(evaluator)
        assert evaluator._probed
        evaluator.use_batch(0.5)
        assert not evaluator._probed


class TestIdentity:
    SCHEDULE = Schedule([Stage(3, 0.7)])

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": {"seed": 7}},
            {"data": {"confirm_images": 6}},
            {"objectives": {"accuracy": "agreement"}},
            {"facts": {"dtype": "bfloat16"}},
        ],
        ids=str,
    )
    def test_changes_with_what_accuracy_depends_on(
        self, opened: Callable[..., ScheduleEvaluator], changes: dict[str, Any]
    ) -> None:
        assert opened(**changes).identity(self.SCHEDULE) != opened().identity(self.SCHEDULE)

    def test_changes_with_weights(self, opened: Callable[..., ScheduleEvaluator]) -> None:
        evaluator = opened()
        before = evaluator.identity(self.SCHEDULE)
        evaluator._calibration = replace(evaluator.calibration, weights="others")
        assert evaluator.identity(self.SCHEDULE) != before

    def test_changes_with_the_effect_of_the_schedule_only(self, opened: Callable[..., ScheduleEvaluator]) -> None:
        evaluator = opened()
        idle = Schedule([Stage(3, 0.7), Stage(9, 1.0)])
        assert evaluator.identity(idle) == evaluator.identity(self.SCHEDULE)
        assert evaluator.identity(Schedule([Stage(3, 0.71)])) != evaluator.identity(self.SCHEDULE)
        assert evaluator.identity(Schedule([Stage(3, 0.7)], "random")) != evaluator.identity(self.SCHEDULE)

    @pytest.mark.parametrize(
        "changes",
        [{"budget": {"trials": 3}}, {"racing": {"alpha": 0.2, "strata": 3}}, {"sampler": {"seed": 5}}, "name"],
        ids=str,
    )
    def test_is_the_same_in_another_study(self, opened: Callable[..., ScheduleEvaluator], changes: Any) -> None:
        evaluator = opened() if changes == "name" else opened(**changes)
        if changes == "name":
            evaluator.context.spec = evaluator.spec.model_copy(update={"name": "another"})
        assert evaluator.identity(self.SCHEDULE) == opened().identity(self.SCHEDULE)
