"""How long the rest takes: one cell by the clock, the waiting ones laid onto workers, and a whole study replayed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.study.forecast import CellClock, Countdown, Means, makespan
from mha_ablate.study.progress import Progress
from mha_ablate.study.timing import ROUNDS, WARM_UP, seconds_of_timing

SECONDS = st.floats(0, 1e4)
CELLS = st.lists(SECONDS, max_size=30)


# ---- the algebra of laying cells onto workers


@given(CELLS, st.integers(1, 8))
def test_no_schedule_is_shorter_than_its_longest_cell_or_its_share_of_the_sum(
    waiting: list[float], workers: int
) -> None:
    whole = makespan([], waiting, workers)
    assert whole >= max(waiting, default=0.0)
    assert whole >= sum(waiting) / workers * (1 - 1e-9)
    assert whole <= sum(waiting) / workers + max(waiting, default=0.0) + 1e-6  # what list scheduling promises


@given(st.integers(0, 40), st.integers(1, 9), st.floats(0.1, 100))
def test_equal_cells_take_as_many_turns_as_it_takes(cells: int, workers: int, seconds: float) -> None:
    assert makespan([], [seconds] * cells, workers) == pytest.approx(-(-cells // workers) * seconds)


@given(CELLS)
def test_one_worker_takes_the_sum(waiting: list[float]) -> None:
    assert makespan([], waiting, 1) == pytest.approx(sum(waiting))


@given(st.lists(SECONDS, min_size=1, max_size=8), st.integers(0, 8))
def test_at_the_end_it_is_the_longest_of_those_that_run(busy: list[float], idle: int) -> None:
    assert makespan(busy, [], len(busy) + idle) == max(busy)


@given(CELLS, st.integers(1, 8), SECONDS)
def test_one_cell_more_never_makes_it_shorter(waiting: list[float], workers: int, more: float) -> None:
    assert makespan([], [*waiting, more], workers) >= makespan([], waiting, workers)


def test_waiting_cells_go_in_order_to_the_worker_that_is_free_first() -> None:
    assert makespan([5.0, 1.0], [3.0, 3.0, 1.0], 2) == 7.0  # 1 + 3 + 3 on one, 5 + 1 on the other
    assert makespan([10.0], [2.0, 2.0, 2.0], 2) == 10.0


# ---- one cell


def clock(steps: int = 100, eval_every: int = 50, given_at: float = 0.0) -> CellClock:
    return CellClock(steps, eval_every, tokens_per_step=10, given=given_at)


def test_nothing_is_known_before_the_second_line() -> None:
    cell = clock()
    assert cell.left(1.0) is None
    cell.hear({"step": 0}, 3.0)
    assert cell.left(4.0) is None
    cell.hear({"step": 10, "loss/train": 4.0}, 5.0)
    assert cell.left(5.0) is not None


def test_what_was_before_the_first_line_is_start_up_and_no_pace() -> None:
    cell = clock(eval_every=100)
    cell.hear({"step": 0}, 30.0)
    cell.hear({"step": 10}, 31.0)
    assert cell.step_seconds == pytest.approx(0.1)
    assert cell.left(31.0) == pytest.approx(9.0)
    assert cell.start_up == 30.0
    assert cell.work(31.0) == pytest.approx(10.0)
    cell.ended = 42.0
    assert (cell.left(50.0), cell.work(50.0)) == (0.0, 12.0)


def test_evaluations_are_timed_apart_and_those_to_come_are_counted() -> None:
    cell = clock()  # evaluates at 50 and at 100
    cell.hear({"step": 0}, 0.0)
    cell.hear({"step": 50, "loss/train": 3.0}, 5.0)
    assert cell.left(5.0) == pytest.approx(5.0)  # no evaluation seen, and nothing to guess it by
    cell.hear({"step": 50, "loss/val": 3.0}, 7.0)
    assert cell.step_seconds == pytest.approx(0.1)
    assert cell.left(7.0) == pytest.approx(5.0 + 2.0)
    cell.hear({"step": 100, "loss/train": 2.9}, 12.0)
    assert cell.left(12.5) == pytest.approx(1.5)
    assert cell.left(99.0) == 0.0


def test_an_evaluation_between_two_lines_is_what_its_steps_do_not_explain() -> None:
    cell = clock(eval_every=25)
    cell.hear({"step": 0}, 0.0)
    cell.hear({"step": 20}, 2.0)
    cell.hear({"step": 25, "loss/val": 3.0}, 2.5 + 4.0)
    assert cell.evaluations == [pytest.approx(4.0)]


def test_until_one_was_seen_an_evaluation_is_guessed_by_its_tokens() -> None:
    cell = clock(eval_every=100)
    cell.hear({"step": 0, "val_tokens": 400, "sample_tokens": 100}, 0.0)  # 40 steps' worth of tokens, at the end
    cell.hear({"step": 10}, 1.0)
    assert cell.left(1.0) == pytest.approx(9.0 + 40 * 0.1 / 2)


def test_the_last_evaluation_takes_as_many_samples_as_the_split_has() -> None:
    cell = clock()
    cell.hear({"step": 0, "val_tokens": 400, "sample_tokens": 100}, 0.0)
    cell.hear({"step": 50}, 5.0)
    cell.hear({"step": 50, "loss/val": 3.0}, 6.0)
    assert cell.left(6.0) == pytest.approx(5.0 + 4 * 1.0)
    cell.hear({"step": 100}, 11.0)
    assert cell.left(11.0) == pytest.approx(4.0)
    cell.hear({"step": 100, "loss/val": 3.0}, 15.0)
    assert cell.left(15.0) == 0.0


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.001, 2), st.floats(0, 30), st.floats(0, 20))
def test_at_an_even_pace_the_forecast_is_exact_from_the_first_evaluation_on(
    steps: int, every: int, step_s: float, eval_s: float, start: float
) -> None:
    cell, now, ends = clock(steps, every), start, []
    cell.hear({"step": 0}, now)
    for step in range(1, steps + 1):
        now += step_s
        cell.hear({"step": step, "loss/train": 1.0}, now)
        if step % every == 0 or step == steps:
            now += eval_s
            cell.hear({"step": step, "loss/val": 1.0}, now)
        if cell.evaluations:
            ends.append(now + (cell.left(now) or 0.0))
    assert ends == pytest.approx([now] * len(ends), rel=1e-6)


def test_means_weigh_by_steps_and_an_arm_not_seen_takes_what_is_known() -> None:
    means = Means([("a", 1.0, 30), ("a", 3.0, 10), ("b", 6.0, 40), ("b", None, 0)])
    assert (means.of("a"), means.of("b"), means.of("c")) == (1.5, 6.0, 3.75)


def test_equal_pieces_are_timed_from_the_first_on() -> None:
    turns = Countdown()
    assert turns.left(0, 5, 100.0) is None
    assert turns.left(1, 5, 130.0) is None  # whatever the start took
    assert turns.left(3, 5, 140.0) == 10.0
    assert turns.left(5, 5, 150.0) == 0.0


def test_timing_takes_its_warm_up_and_a_turn_a_round_of_every_arm() -> None:
    assert seconds_of_timing([0.5, 0.7]) == pytest.approx((WARM_UP + ROUNDS) * 1.2)  # a turn of one step
    assert seconds_of_timing([0.02]) == pytest.approx((WARM_UP + 10 * ROUNDS) * 0.02)


# ---- a whole study, replayed without a clock

STEP_S = {"slow": 0.4, "quick": 0.1, "middle": 0.2}
EVAL_S, START_S = 1.5, 2.0


def cells(seeds: int) -> list[Any]:
    config = SimpleNamespace(
        trainer=SimpleNamespace(steps=100, eval_every=50, batch_size=2), model=SimpleNamespace(context=5)
    )
    return [SimpleNamespace(arm=arm, seed=seed, config=config) for seed in range(seeds) for arm in STEP_S]


def happenings(arm: str) -> list[tuple[float, dict[str, Any]]]:
    """(seconds after the cell was given out, line) of one cell."""
    now = START_S
    lines: list[tuple[float, dict[str, Any]]] = [(now, {"step": 0, "val_tokens": 100, "sample_tokens": 100})]
    for step in range(10, 101, 10):
        now += 10 * STEP_S[arm]
        lines.append((now, {"step": step, "loss/train": 1.0, "perf/tokens_per_s": 10 / STEP_S[arm]}))
        if step % 50 == 0:
            now += EVAL_S
            lines.append((now, {"step": step, "loss/val": 1.0}))
    return lines


def replay(progress: Progress, workers: int) -> tuple[list[tuple[float, float | None]], float]:
    """Every (moment, forecast of the end) of the study on so many workers, and when it really ended."""
    progress.workers, now, told = workers, 0.0, []
    waiting, busy = list(progress.todo), []
    while waiting or busy:
        while waiting and len(busy) < workers:
            cell = waiting.pop(0)
            progress.begin(cell, now)
            busy += [(cell, [(now + at, line) for at, line in happenings(cell.arm)])]
        cell, lines = min(busy, key=lambda b: b[1][0][0])
        now, line = lines.pop(0)
        progress.hear(cell, line, now)
        if not lines:
            progress.end(cell, "ok", now, loss=1.0)
            busy = [b for b in busy if b[0] is not cell]
        left = progress.seconds_left(now)
        told.append((now, None if left is None else now + left))
    return told, now


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_forecast_of_a_study_stays_near_its_end(workers: int) -> None:
    told, end = replay(Progress(cells(4)), workers)
    assert told[0][1] is None
    seen_all = next(t for t, (now, _) in enumerate(told) if now > 0.35 * end)
    assert [ends for _, ends in told[seen_all:]] == pytest.approx([end] * len(told[seen_all:]), rel=0.1)
    assert told[-1][1] == pytest.approx(end)


def test_cells_done_before_cost_nothing() -> None:
    everything = cells(4)
    before: dict[tuple[str, int], float | None] = {(c.arm, c.seed): 1.0 for c in everything if c.seed < 3}
    resumed, fresh = Progress(everything, before), Progress(everything[9:])
    assert replay(resumed, 2) == replay(fresh, 2)
    assert resumed.ended == len(everything)


def test_with_nothing_to_do_nothing_is_left() -> None:
    before: dict[tuple[str, int], float | None] = {(c.arm, c.seed): 1.0 for c in cells(1)}
    assert Progress(cells(1), before).seconds_left(5.0) == 0.0
    assert Progress(cells(1), before, to_be_timed=True).seconds_left(5.0) is None


def test_measuring_step_times_is_part_of_what_is_left() -> None:
    plain, timed = Progress(cells(1)), Progress(cells(1), to_be_timed=True)
    (_, without), (_, including) = replay(plain, 1)[0][-1], replay(timed, 1)[0][-1]
    assert without is not None
    assert including is not None
    assert including - without == pytest.approx(seconds_of_timing(list(STEP_S.values())), rel=0.01)


def test_a_failure_says_nothing_of_how_long_a_cell_takes() -> None:
    first, second, _ = cells(1)
    progress = Progress([first, second])
    progress.begin(first, 0.0)
    progress.end(first, "failed", 0.5, error="out of luck")
    assert progress.seconds_left(0.5) is None
    assert progress.failures == [(first, "out of luck")]
    assert (progress.state(("slow", 0)), progress.state(("quick", 0))) == ("failed", "waiting")


def test_a_countdown_may_begin_anywhere() -> None:
    """Characters of a text come by the hundred thousand: the first look says nothing, the second one does."""
    turns = Countdown()
    assert turns.left(500_000, 2_000_000, 1000.0) is None
    assert turns.left(1_000_000, 2_000_000, 1002.0) == pytest.approx(4.0)
