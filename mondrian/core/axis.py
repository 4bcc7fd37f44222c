"""The value axis of a plot in an HTML page: round ticks, positions in percent of the width."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10

TICKS_PER_AXIS = 4  # about, of a small chart
_TICKS_PER_PLOT = 7  # about
_PADDING = 0.03  # of the range of the values


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; core/templates/plot.html draws it."""

    low: float
    high: float
    label: str  # what it measures, with its unit
    is_count: bool = False  # only whole numbers have ticks

    def percent(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return position and text of each tick."""
        values = ticks(self.low, self.high, _TICKS_PER_PLOT)
        labelled = [value for value in values if not self.is_count or value.is_integer()]
        return [(self.percent(value), f"{value:g}") for value in labelled]


def build_axis(values: Iterable[float], label: str, is_count: bool = False) -> Axis:
    """Return an axis with 0 and all values on it, padded on each side that has values."""
    values = [0.0, *values]
    low, high = min(values), max(values)
    padding = _PADDING * (high - low)
    low, high = low - padding if low < 0 else low, high + padding if high > 0 else high
    return Axis(low, high if high > low else low + 1.0, label, is_count)


def ticks(low: float, high: float, count: int = TICKS_PER_AXIS) -> list[float]:
    """Return round values between two, about `count` of them."""
    min_step = (high - low) / count
    unit = 10.0 ** floor(log10(min_step))
    step = next(size * unit for size in (1, 2, 2.5, 5, 10) if size * unit >= min_step * 0.999)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
