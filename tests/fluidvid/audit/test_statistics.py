"""Figures against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fluidvid.audit.statistics import (
    Figure,
    Scores,
    equal_error_rate,
    mean_figure,
    median_figure,
    not_measured,
    rounded,
    true_accept_rate,
)


def test_mean_with_coverage_and_interval() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0, np.nan])
    figure = mean_figure(values, np.array([1, 1, 2, 2, 2]), of=8)
    assert figure.value == 0.5 and (figure.count, figure.of) == (4, 8)
    assert (figure.low, figure.high) == (0.0, 1.0)
    assert figure == mean_figure(values, np.array([1, 1, 2, 2, 2]), of=8)


def test_median_is_not_moved_by_one_outlier() -> None:
    values = np.array([0.1, 0.2, 0.3, 9.0, np.nan])
    figure = median_figure(values, np.array([1, 1, 2, 3, 3]), of=6)
    assert figure.value == pytest.approx(0.25) and (figure.count, figure.of) == (4, 6)
    assert figure.low is not None and figure.high is not None
    assert figure.low <= 0.25 <= figure.high
    assert median_figure(values[:2], np.array([1, 1]), of=2).low is None
    assert median_figure(np.array([np.nan]), np.array([1]), of=1).value is None


def test_one_track_has_no_interval() -> None:
    figure = mean_figure(np.ones(3), np.ones(3, np.int64), of=3)
    assert figure.low is None and "interval" not in figure.to_dict()


def test_nothing_measured_says_why() -> None:
    figure = mean_figure(np.array([np.nan]), np.array([1]), of=1)
    assert figure.value is None and figure.to_dict() == {
        "value": None,
        "faces": 0,
        "of": 1,
        "why": "no face could be measured",
    }
    assert not_measured("because", 3) == Figure(None, 0, 3, why="because")


def test_interval_covers_the_mean_of_many_tracks() -> None:
    rng = np.random.default_rng(1)
    tracks = np.repeat(np.arange(40), 5)
    values = rng.normal(0.3, 0.1, 40)[tracks]
    figure = mean_figure(values, tracks, of=200)
    assert figure.low is not None and figure.high is not None
    assert figure.low < 0.3 < figure.high and figure.high - figure.low < 0.1


def scores(genuine: list[float], impostor: list[float]) -> Scores:
    table = np.full((len(genuine), len(impostor)), np.nan)
    table[0] = impostor
    return Scores.count(np.array(genuine), table, np.zeros(len(genuine), np.int64))


@pytest.mark.parametrize(
    ("genuine", "impostor", "eer"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.1, 0.6, 0.7, 0.8], [0.0, 0.05, 0.15, 0.65], 0.25),
    ],
)
def test_equal_error_rate(genuine: list[float], impostor: list[float], eer: float) -> None:
    figure = scores(genuine, impostor).figure(equal_error_rate, len(genuine), len(genuine))
    assert figure.value == pytest.approx(eer, abs=1e-9)


def test_true_accepts_at_a_rate_of_false_ones() -> None:
    impostor = list(np.linspace(0, 0.5, 100))
    counted = scores([0.2, 0.49, 0.6, 0.7], impostor)
    assert counted.figure(true_accept_rate(0.01), 4, 4).value == 0.5
    assert counted.figure(true_accept_rate(0.10), 4, 4).value == 0.75


def test_without_impostors_there_is_no_curve() -> None:
    empty = Scores.count(np.array([0.5]), np.zeros((1, 0)), np.zeros(1, np.int64))
    assert "no impostors" in empty.figure(equal_error_rate, 1, 1).why


def test_rounded_never_gives_what_json_cannot_hold() -> None:
    assert rounded(float("nan")) is None and rounded(None) is None and rounded(0.123456) == 0.1235
