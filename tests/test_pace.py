import math

import pytest

from simpo.pace import Mark, duration, sparkline, speed, time_left


def steady(count, rate=100.0, start=0):
    return [Mark(start + 500 * i, 500 * i / rate, 20.0) for i in range(count)]


def test_a_steady_run_ends_when_it_should():
    for count in (2, 3, 10, 11):
        marks = steady(count)
        assert speed(marks) == pytest.approx(100.0)
        assert time_left(marks, 10_000) == pytest.approx(
            (10_000 - marks[-1].step) / 100
        )


def test_warm_up_and_compilation_do_not_count():
    warm_up = [Mark(500 * i, 0.1 * i, 0.0) for i in range(5)]
    compiled = Mark(2500, 60.0, 1.0)
    assert time_left(warm_up, 10_000) is None
    assert time_left([*warm_up, compiled], 10_000) is None
    marks = [*warm_up, compiled, Mark(3000, 65.0, 20.0)]
    assert speed(marks) == pytest.approx(100.0)
    assert time_left(marks, 10_000) == pytest.approx(70.0)


def test_agents_that_update_seldom_count_from_their_first_update():
    marks = [Mark(500 * i, 5.0 * i, 20.0 * (i % 4 == 2)) for i in range(9)]
    assert speed(marks) == pytest.approx(100.0)


def test_the_later_half_tells_when_the_speed_changes():
    slow, count = steady(11), 11
    last = slow[-1]
    fast = [
        Mark(last.step + 500 * i, last.elapsed + i, 9.0) for i in range(1, count + 1)
    ]
    assert speed([*slow, *fast]) == pytest.approx(500.0)


def test_time_that_stands_still_tells_nothing():
    assert speed([Mark(500, 1.0, 2.0)] * 4) is None
    assert speed([Mark(500, 1.0, 2.0), Mark(1000, 1.0, 2.0)]) is None
    assert speed([Mark(500, 1.0, math.nan)] * 4) is None
    assert time_left([], 100) is None


def test_nothing_is_left_after_the_end():
    assert time_left(steady(5), 100) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [
        (range(8), 8, "▁▂▃▄▅▆▇█"),
        (range(16), 8, "▁▂▃▄▅▆▇█"),
        ([1, 0, 1], 10, "█▁█"),
        ([5, 5], 4, "▁▁"),
        ([-2, math.nan, 2], 4, "▁ █"),
        ([math.inf, 1, 2], 4, " ▁█"),
        ([math.nan], 4, " "),
        ([], 4, ""),
        ([1, 2], 0, ""),
    ],
)
def test_curves_in_few_characters(values, width, text):
    assert sparkline(values, width) == text
