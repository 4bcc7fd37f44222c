"""What a choice of photos covers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mondrian.core.fields import FloatArray
from mondrian.inference.photo_coverage import NO_POINT, choose_photos, standardize

WIDTH = 3


def draw_points(min_count: int) -> Any:
    numbers = st.floats(-10, 10, allow_subnormal=False)
    return st.integers(min_count, 12).flatmap(
        lambda count: arrays(np.float64, (count, WIDTH), elements=numbers)
    )


def distance_to_chosen(points: FloatArray, chosen: FloatArray) -> float:
    """Return the distance of the worst-covered point."""
    return float(np.linalg.norm(points[:, None] - chosen[None], axis=2).min(axis=1).max())


@given(draw_points(1), draw_points(0), st.integers(1, 15))
def test_the_count_is_chosen_without_repeats_and_the_same_each_time(
    candidates: FloatArray, critiqued: FloatArray, count: int
) -> None:
    choices = choose_photos(candidates, critiqued, count)
    indices = [choice.index for choice in choices]
    assert len(indices) == len(set(indices)) == min(count, len(candidates))
    assert choose_photos(candidates, critiqued, count) == choices
    assert choose_photos(candidates, critiqued, 1) == choices[:1]


@given(draw_points(2), draw_points(0))
def test_distances_fall_and_are_those_of_the_nearest(
    candidates: FloatArray, critiqued: FloatArray
) -> None:
    choices = choose_photos(candidates, critiqued, len(candidates))
    points = np.concatenate([critiqued, candidates])
    for choice in choices:
        if choice.nearest == NO_POINT:
            assert choice is choices[0]
            assert not len(critiqued)
        else:
            length = np.linalg.norm(points[choice.nearest] - candidates[choice.index])
            assert choice.distance == pytest.approx(length)
    distances = [choice.distance for choice in choices]
    assert distances == sorted(distances, reverse=True)


@given(draw_points(3), st.integers(1, 3), st.randoms())
def test_no_other_choice_covers_more_than_twice_as_well(
    points: FloatArray, count: int, random: Any
) -> None:
    """The bound of Gonzalez: any other choice leaves a photo at least half as far away."""
    chosen = points[[choice.index for choice in choose_photos(points, points[:0], count)]]
    other = points[random.sample(range(len(points)), min(count, len(points)))]
    worst = distance_to_chosen(points, chosen)
    assert worst <= 2 * distance_to_chosen(points, other) + 1e-9


def test_each_cluster_is_chosen_before_a_second_photo_of_one() -> None:
    rng = np.random.default_rng(1)
    centers = 10 * np.eye(4)
    sizes = (50, 5, 2, 1)
    labels = np.repeat(np.arange(4), sizes)
    points = centers[labels] + 0.1 * rng.normal(size=(len(labels), 4))
    choices = choose_photos(points, points[:0], 4)
    assert {int(labels[choice.index]) for choice in choices} == {0, 1, 2, 3}
    assert labels[choices[0].index] == 0  # the most typical photo is the first
    rest = choose_photos(points[labels > 0], points[labels == 0], 3)
    assert {int(labels[labels > 0][choice.index]) for choice in rest} == {1, 2, 3}


def test_distances_do_not_depend_on_the_scale_of_a_feature() -> None:
    points = np.random.default_rng(2).normal(size=(40, 6))
    scaled = standardize(points * np.array([1, 100, 0.01, 1, 1, 0]) + 5)
    np.testing.assert_allclose(scaled, standardize(points[:, :5]), atol=1e-9)
    squared = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared.mean(), 1)
