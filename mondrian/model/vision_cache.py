"""What the vision tower says of photographs, made once each and kept in a bounded folder.

The key is the content: pixels, the processor's settings and the base. Train and evaluate share the
folder; an entry that was thrown out or damaged is made again, to the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlx.core as mx
from PIL import Image
from tqdm import tqdm

from mondrian.core.errors import PhotoError
from mondrian.core.images import read_photo
from mondrian.model.device import NUM_STREAMS
from mondrian.model.language import Features
from mondrian.model.provenance import package_versions
from mondrian.model.vlm import Vlm, encode_images

MAX_MEMORY_BYTES = 1 << 30  # bytes of features that are kept at hand
_VERSION = 2  # of the arithmetic that makes features
_PREFETCH_PHOTOS = 4  # photographs decoded on the other core while the tower is at work


class FeatureCache:
    """Features of photographs by path.

    folder    where they are kept between runs; None keeps them nowhere
    limit_gb  10^9 bytes the folder may hold; the least recently used go first
    raw       keep what enters the merger too, which an adapter on it wants
    """

    def __init__(self, vlm: Vlm, folder: Path | None, limit_gb: float, raw: bool = False) -> None:
        self.vlm, self.folder, self.raw = vlm, folder, raw
        self.limit = int(limit_gb * 1e9)
        self.encode_count = 0  # times the tower ran
        self._keys: dict[str, str] = {}
        self._near: OrderedDict[str, Features] = OrderedDict()
        settings = vlm.processor.image_processor
        key_parts = [
            _VERSION,
            package_versions(),
            vlm.hash,
            raw,
            settings.patch_size,
            settings.merge_size,
            settings.image_mean,
        ]
        self._base = json.dumps(
            [*key_parts, settings.image_std, settings.rescale_factor], default=list
        )

    def precompute(self, paths: Sequence[str]) -> None:
        """See every photograph that was not seen before, the next ones decoded meanwhile.

        Raises PhotoError where one cannot be read, BaseModelError where it would be resized.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._keys]
        bar = tqdm(_decode_ahead(new), "photographs", len(new), unit="photo", leave=False)
        waiting: dict[str, Image.Image] = {}
        for path, picture in bar:
            self._keys[path] = self._key(picture)
            if self._find(path) is None:
                waiting[path] = picture
            if len(waiting) == NUM_STREAMS:
                self._make(waiting)
        self._make(waiting)

    def get(self, path: str) -> Features:
        """Features of one photograph, from memory, from the folder, or made again."""
        if path not in self._keys:
            self.precompute([path])
        return self._find(path) or self._make({path: read_photo(Path(path))})[0]

    def key(self, path: str) -> str:
        """What a photograph that was looked at is kept under: its content."""
        return self._keys[path]

    def _key(self, picture: Image.Image) -> str:
        digest = sha256(f"{self._base} {picture.size}".encode())
        digest.update(picture.tobytes())
        return digest.hexdigest()

    def _find(self, path: str) -> Features | None:
        key = self._keys[path]
        if key in self._near:
            self._near.move_to_end(key)
            return self._near[key]
        features = self._read(key)
        if features is not None:
            self._keep_in_memory(key, features)
        return features

    def _make(self, waiting: dict[str, Image.Image]) -> list[Features]:
        """Run the tower on pictures, a lane each, and keep what it says; `waiting` is emptied."""
        features = encode_images(self.vlm, list(waiting.values()), self.raw)
        for path, image_features in zip(waiting, features, strict=True):
            self.encode_count += 1
            self._keep_in_memory(self._keys[path], image_features)
            self._write(self._keys[path], image_features)
        if waiting:
            self._evict()
        waiting.clear()
        return features

    def _keep_in_memory(self, key: str, features: Features) -> None:
        self._near[key] = features
        while len(self._near) > 1 and sum(map(_size, self._near.values())) > MAX_MEMORY_BYTES:
            self._near.popitem(last=False)

    def _read(self, key: str) -> Features | None:
        """What the folder holds of it; a file that is damaged counts as none."""
        if self.folder is None or not (self.folder / f"{key}.safetensors").is_file():
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            loaded: Any = mx.load(str(path), return_metadata=True)
            tensors, about = loaded
            rows, columns = json.loads(about["grid"])
            deep = tuple(tensors[f"deep.{i}"] for i in range(len(tensors) - 1 - self.raw))
            features = Features(tensors["merged"], deep, (rows, columns), tensors.get("raw"))
            arrays = [features.merged, *features.deep]
            if any(a.shape != (rows * columns, features.merged.shape[1]) for a in arrays):
                return None
            if not all(bool(mx.all(mx.isfinite(a))) for a in tensors.values()):
                return None
        except (RuntimeError, ValueError, KeyError):
            return None
        with suppress(OSError):
            os.utime(path)
        return features

    def _write(self, key: str, features: Features) -> None:
        if self.folder is None or not self.limit:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "merged": features.merged,
            **{f"deep.{i}": d for i, d in enumerate(features.deep)},
        }
        if features.pre_merger is not None:
            tensors["raw"] = features.pre_merger
        beside = self.folder / f".{key[:16]}.{uuid4().hex[:8]}.safetensors"
        try:
            mx.save_safetensors(str(beside), tensors, {"grid": json.dumps(features.grid)})
            beside.replace(self.folder / f"{key}.safetensors")
        except (OSError, RuntimeError):  # a full disk: a cache is not worth a failed run
            beside.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Keep the folder within its limit; several runs may do so at once."""
        if self.folder is None or not self.folder.is_dir():
            return
        with suppress(FileNotFoundError):
            stats = [(f.stat(), f) for f in self.folder.glob("*.safetensors")]
            total = sum(stat.st_size for stat, _ in stats)
            for stat, file in sorted(stats, key=lambda pair: pair[0].st_mtime_ns):
                if total <= self.limit:
                    return
                file.unlink(missing_ok=True)
                total -= stat.st_size


def _size(features: Features) -> int:
    arrays = (
        features.merged,
        *features.deep,
        *([] if features.pre_merger is None else [features.pre_merger]),
    )
    return sum(array.nbytes for array in arrays)


def _decode_ahead(paths: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    """Pictures in order, a few decoded ahead in a thread (decoders let go of Python's lock)."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read_photo, Path(path)) for path in paths[:_PREFETCH_PHOTOS]]
        for i, path in enumerate(paths):
            try:
                picture = waiting.pop(0).result()
            except PhotoError as error:
                message = f"{path}: {error}; prepare again: dvc repro"
                raise PhotoError(error.reason, message) from None
            if i + _PREFETCH_PHOTOS < len(paths):
                waiting.append(pool.submit(read_photo, Path(paths[i + _PREFETCH_PHOTOS])))
            yield path, picture
