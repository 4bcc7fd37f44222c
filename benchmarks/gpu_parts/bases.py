"""Write what the other parts read: bases.py FOLDER SIZE [TOKENIZER]

SIZE is small (mondrian-tiny) or full (random weights in the shape of Qwen3-VL-4B); TOKENIZER is a
folder with Qwen3's. Each of FOLDER/4bit and FOLDER/float gets

base/        the base model, packed to 4 bits; or the same weights in bfloat16, by the names and in
             the layout that transformers reads too
workload/    rows of it (benchmarks/workload.py)
deployment/  params.yaml and an adapter (benchmarks/serving/deployment.py)
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
from mlx_vlm.convert import convert

from benchmarks.large_base import TINY_FOLDER, RowShape, make_rows
from benchmarks.measurement import print_result
from benchmarks.random_base import write_full_base
from benchmarks.serving.deployment import write_adapter, write_deployment
from benchmarks.workload import Workload

PACKED, FLOAT = "4bit", "float"
NUM_ROWS = 8  # with a photo each; longer runs repeat them


@dataclass(frozen=True)
class Sizes:
    """Sizes of the rows; square patches of 16 pixels."""

    row: RowShape

    @property
    def max_pixels(self) -> int:
        return self.row.grid[0] * self.row.grid[1] * 256


SIZES = {
    "small": Sizes(RowShape(60, (8, 10), 100, token_ids=(9, 1000))),
    # 2,048 tokens: a photo of 768 x 1,024 pixels and a critique of median length
    "full": Sizes(RowShape(236, (48, 64), 1042)),
}


def write_packed_base(folder: Path, size: str, tokenizer: Path | None) -> None:
    if size == "full":
        write_full_base(folder, bits=4, tokenizer=tokenizer)
    else:
        convert(str(TINY_FOLDER), str(folder), quantize=True, q_bits=4)


def write_unpacked_copy(base: Path, folder: Path) -> None:
    """Write the same weights in bfloat16 by Hugging Face's names."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((base / "config.json").read_text())
    packing = config.pop("quantization")
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    weight_map: dict[str, str] = {}
    for file in sorted(base.glob("*.safetensors")):
        tensors: Any = mx.load(str(file))
        plain = {}
        for path, value in tensors.items():
            stem = path.removesuffix(".weight")
            if f"{stem}.scales" in tensors and path != stem:
                packed = (value, tensors[f"{stem}.scales"], tensors[f"{stem}.biases"])
                value = mx.dequantize(*packed, packing["group_size"], packing["bits"])
            elif path.endswith("patch_embed.proj.weight"):
                value = value.transpose(0, 4, 1, 2, 3)
            if not path.endswith((".scales", ".biases")):
                plain[_hugging_face_name(path)] = mx.contiguous(value.astype(mx.bfloat16))
        mx.save_safetensors(str(folder / file.name), plain, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(plain, file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _hugging_face_name(path: str) -> str:
    name = path.replace("language_model.model.", "model.language_model.", 1)
    return name.replace("vision_tower.", "model.visual.", 1)


def write_workload(folder: Path, base: Path, shape: RowShape) -> Workload:
    """Write rows that begin with the same prompt."""
    rows = make_rows(NUM_ROWS, shared_prompt=True, shape=shape, config_folder=base)
    lengths = [row.prompt_length for row in rows]
    ids = [row.ids for row in rows]
    workload = Workload(folder, str(base), ids, lengths, [shape.grid] * len(rows), batches=[])
    workload.write(row.pixels for row in rows)
    return workload


def write_rest(folder: Path, sizes: Sizes) -> None:
    """Write deployment, adapter and workload next to a base."""
    deployment = write_deployment(folder / "deployment", folder / "base", sizes.max_pixels)
    write_adapter(deployment, deployment.adapter)
    workload = write_workload(folder / "workload", folder / "base", sizes.row)
    shutil.copytree(deployment.adapter, workload.adapter)


def main() -> None:
    folder, size = Path(sys.argv[1]), sys.argv[2]
    tokenizer = Path(sys.argv[3]) if sys.argv[3:] else None
    packed_base = folder / PACKED / "base"
    for kind in (PACKED, FLOAT):
        started = perf_counter()
        (folder / kind).mkdir(parents=True)
        if kind == PACKED:
            write_packed_base(packed_base, size, tokenizer)
        else:
            write_unpacked_copy(packed_base, folder / kind / "base")
        write_rest(folder / kind, SIZES[size])
        num_bytes = sum(file.stat().st_size for file in (folder / kind / "base").iterdir())
        seconds = round(perf_counter() - started, 1)
        print_result(base=kind, gb=round(num_bytes / 1e9, 3), seconds=seconds)


if __name__ == "__main__":
    main()
