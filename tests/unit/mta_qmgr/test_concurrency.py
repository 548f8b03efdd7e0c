"""How a destination's window grows and shrinks: Postfix's own figures."""

from __future__ import annotations

import pytest

from mailstack.mta.qmgr.concurrency import Feedback, Policy, Window


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", [1, 1, 1]),
        ("0", [0, 0, 0]),
        ("1/8", [0.125, 0.125, 0.125]),
        (" .5 / 2 ", [0.25, 0.25, 0.25]),
        ("1/concurrency", [1, 0.25, 1 / 9]),
        ("1/sqrt_concurrency", [1, 0.5, 1 / 3]),
        ("0.5/concurrency", [0.5, 0.125, 0.5 / 9]),
        ("2", None),
        ("-1", None),
        ("3/2", None),
        ("2/concurrency", None),
        ("1/0", None),
        ("1/window", None),
        ("fast", None),
        ("", None),
    ],
)
def test_feedback(text: str, values: list[float] | None) -> None:
    feedback = Feedback.parse(text)
    if values is None:
        assert feedback is None
    else:
        assert feedback is not None
        assert [feedback.at(window) for window in (1, 4, 9)] == pytest.approx(values)


def grown(policy: Policy, successes: int) -> list[float]:
    window = Window(policy)
    sizes = []
    for _ in range(successes):
        window.succeeded(int(window.size))
        sizes.append(window.size)
    return sizes


def test_success_widens_the_window_to_the_limit() -> None:
    assert grown(Policy(), 20) == [*range(6, 21), 20, 20, 20, 20, 20]
    assert grown(Policy(initial=2, limit=4), 4) == [3, 4, 4, 4]
    assert grown(Policy(initial=5, limit=3), 2) == [3, 3]
    assert grown(Policy(initial=2, limit=0), 30)[-1] == 32
    # About one more after each cohort.
    assert grown(Policy(initial=2, positive=Feedback(1.0, "concurrency")), 8) == [2, 3, 3, 3, 4, 4, 4, 4]


def test_the_window_stays_near_what_is_under_way() -> None:
    window = Window(Policy(initial=5))
    for _ in range(50):
        window.succeeded(1)
    assert window.size == 6


def test_failure_narrows_the_window_and_a_failed_cohort_is_the_end() -> None:
    # What Postfix 3.7 does with one delivery after the other to a port where nobody listens: attempts made.
    for initial, attempts in ((1, 1), (3, 2), (5, 3), (8, 5)):
        window = Window(Policy(initial=initial))
        assert [window.failed() for _ in range(attempts)] == [False] * (attempts - 1) + [True]
    steady = Window(Policy(negative=Feedback(0.0), cohorts=2))
    assert [steady.failed() for _ in range(10)] == [False] * 9 + [True], "2 cohorts of 5"
    immortal = Window(Policy(cohorts=0))
    assert not any(immortal.failed() for _ in range(100))
    assert immortal.size == 1


def test_success_forgives_failed_cohorts() -> None:
    window = Window(Policy(initial=2, limit=2, negative=Feedback(0.0)))
    for _ in range(20):
        assert not window.failed()
        window.succeeded(2)
