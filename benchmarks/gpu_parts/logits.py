"""Compare logits with those of the CPU in float32: logits.py BASE...

BASE is mondrian-tiny or large-vocabulary (benchmarks/large_base.py). Each side computes the logits
of all positions of two rows in a process of its own. Prints the largest and mean difference and how
often the most probable token is the same: as the device computes, with float32 products in full
precision (MLX_ENABLE_TF32=0), and in bfloat16.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

if sys.argv[1] == "cpu":
    mx.set_default_device(mx.Device(mx.DeviceType.cpu))

from benchmarks.large_base import LARGE, TINY, TINY_FOLDER, RowShape, make_rows, write_base
from benchmarks.measurement import print_result
from mondrian.model import vlm
from mondrian.model.device import DEVICE
from mondrian.model.language import compute_logits, hidden_states, make_batch
from mondrian.model.vision import extract_features

Logits = NDArray[np.float32]
ROWS = RowShape(60, (8, 10), 40, token_ids=(9, 1000))
VARIANTS: dict[str, dict[str, str]] = {
    "default": {},
    "full float32": {"MLX_ENABLE_TF32": "0"},
    "bfloat16": {"MONDRIAN_DEVICE": "gpu-bfloat16"},
}


def save_logits(base_folder: str, file: str) -> None:
    base = vlm.load(base_folder)
    rows = make_rows(2, shared_prompt=False, shape=ROWS, config_folder=Path(base_folder))
    photos = [(mx.array(row.pixels), ROWS.grid) for row in rows]
    features = extract_features(base.model.vision_tower, photos)
    batch = make_batch([row.ids for row in rows], features, base.image_id)
    logits = compute_logits(base.model, hidden_states(base.model, batch))
    np.save(file, np.array(logits.astype(mx.float32)))


def compute(side: str, base: Path, file: Path, env: dict[str, str]) -> Logits:
    command = [sys.executable, __file__, side, str(base), str(file)]
    subprocess.run(command, check=True, env=os.environ | env)
    logits: Logits = np.load(file)
    return logits


def compare(name: str, base: Path, file: Path) -> None:
    """Print the difference of each variant that this device has."""
    expected = compute("cpu", base, file, {})
    for variant, env in VARIANTS.items():
        if not (DEVICE.is_gpu or variant == "bfloat16"):
            continue
        logits = compute("device", base, file, env)
        difference = np.abs(logits - expected)
        print_result(
            base=name,
            variant=variant,
            largest_difference=round(float(difference.max()), 6),
            mean_difference=round(float(difference.mean()), 6),
            standard_deviation=round(float(expected.std()), 4),
            same_token=round(float((logits.argmax(-1) == expected.argmax(-1)).mean()), 4),
        )


def main() -> None:
    if sys.argv[1] in ("cpu", "device"):
        save_logits(*sys.argv[2:])
        return
    with tempfile.TemporaryDirectory() as folder:
        bases = {TINY: TINY_FOLDER, LARGE: Path(folder) / LARGE}
        if LARGE in sys.argv:
            write_base(bases[LARGE])
        for name in sys.argv[1:]:
            compare(name, bases[name], Path(folder) / "logits.npy")


if __name__ == "__main__":
    main()
