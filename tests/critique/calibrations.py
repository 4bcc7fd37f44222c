"""Score calibrations."""

from mondrian.critique.calibration import Calibration
from mondrian.critique.schema import DIMENSIONS


def make_calibration(weight: float, **weights: float) -> Calibration:
    """Return a calibration around 6; a dimension is named by its first word."""
    by_name = {name: weights.get(name.split()[0], weight) for name in DIMENSIONS}
    medians = dict.fromkeys(DIMENSIONS, 6.0)
    return Calibration(adapter_version="v", medians=medians, weights=by_name, step=1.0)
