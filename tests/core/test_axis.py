import pytest

from mondrian.core.axis import build_axis, ticks


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (0.93, 1),
        (-0.2, 0.31),
        (0, 1234),
        (-1e-4, 1e-4),
    ],
)
def test_value_ticks_are_few_and_within_the_axis(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 2 <= len(values) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in values)


def test_an_axis_has_0_and_all_values_on_it() -> None:
    axis = build_axis([2.0, 7.5], "points")
    assert axis.percent(0) == 0
    assert 90 < axis.percent(7.5) < 100
    assert [text for _, text in axis.ticks()][:2] == ["0", "2"]
    negative = build_axis([-3.0, -1.0], "points")
    assert 0 < negative.percent(-3) < negative.percent(0) == 100


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [9.0, 2.0], [31.0]])
def test_an_axis_of_counts_has_only_whole_ticks(values: list[float]) -> None:
    texts = [text for _, text in build_axis(values, "jobs", is_count=True).ticks()]
    assert 2 <= len(texts) <= 8
    assert all(text.isdigit() for text in texts)
