"""Kill a training run and resume it: resume.py FOLDER

Trains mondrian-tiny on rendered photos three times: twice without interruption, once killed after
its first checkpoint and started again. Prints the largest difference of adapter weights between the
two runs, and between the first and the resumed one; 0 with the same bytes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from safetensors.numpy import load_file

from benchmarks.crash_recovery import ROOT, make_train_command, read_outputs, run_to_end
from benchmarks.measurement import print_result
from mondrian.core.images import resize_to_fit
from mondrian.core.params import load_params
from mondrian.sample.chat_row import build_chat_row
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

ADVISOR, SEED, NUM_ROWS = "ansel", 31, {"train": 8, "val": 1}


def write_rows(folder: Path) -> None:
    """Write train.json and val.json of rendered photos."""
    params = load_params(ROOT / "params.yaml")
    persona = params.persona(ADVISOR)
    folder.mkdir(parents=True)
    rows = []
    for i in range(sum(NUM_ROWS.values())):
        scene, file = draw_scene(SEED, i), folder / f"{i}.png"
        resize_to_fit(render(scene), params.image.min_pixels, params.image.max_pixels).save(file)
        rows.append(build_chat_row(write_critique(ADVISOR, scene), file, persona).model_dump())
    count = NUM_ROWS["train"]
    (folder / "train.json").write_text(json.dumps(rows[:count]))
    (folder / "val.json").write_text(json.dumps(rows[count:]))


def kill_after_checkpoint(command: list[str], cache: Path) -> bool:
    """Start a run and kill it once it has saved a checkpoint; return False if it ended before."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(cache.rglob("checkpoint-*.safetensors")):
        time.sleep(0.02)
    process.kill()
    return process.wait() < 0


def largest_difference(folder: Path, other: Path) -> float:
    name = "adapter/adapter_model.safetensors"
    weights, others = load_file(folder / name), load_file(other / name)
    return max(float(np.abs(weights[key] - others[key]).max()) for key in weights)


def main() -> None:
    folder = Path(sys.argv[1])
    write_rows(folder / "rows")
    first, second, resumed = (folder / name for name in ("first", "second", "resumed"))
    seconds = [run_to_end(make_train_command(folder / "rows", work)) for work in (first, second)]
    command = make_train_command(folder / "rows", resumed)
    was_killed = kill_after_checkpoint(command, resumed / "cache/train")
    run_to_end(command)
    same_bytes = read_outputs(first / "adapter") == read_outputs(resumed / "adapter")
    print_result(
        seconds=round(min(seconds), 2),
        was_killed=was_killed,
        resumed_to_the_same_bytes=same_bytes,
        difference_when_resumed=largest_difference(first, resumed),
        difference_when_repeated=largest_difference(first, second),
    )


if __name__ == "__main__":
    main()
