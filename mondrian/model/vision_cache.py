"""Vision features of photos, computed once and cached in a bounded folder.

The key is the content: pixels, the processor's settings and the base. Train and evaluate share the
folder. A dropped or damaged entry is computed again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlx.core as mx
from PIL import Image

from mondrian.core.errors import PhotoError
from mondrian.core.images import read_photo
from mondrian.core.terminal import progress_bar
from mondrian.model.device import DEVICE
from mondrian.model.language import Features
from mondrian.model.lru_cache import LRUCache
from mondrian.model.provenance import package_versions
from mondrian.model.vlm import Vlm, encode_images

MAX_MEMORY_BYTES = 1 << 30  # of features in memory
_VERSION = 3  # of the arithmetic that computes features
_PREFETCH_PHOTOS = 4  # decoded on the other core while the vision tower runs


class FeatureCache:
    """Features of photos by path.

    folder           of the entries that later runs read; None for memory only
    max_gb           10^9 bytes of the folder; the least recently used entries are deleted first
    with_pre_merger  store the merger's input too, which an adapter on the merger needs
    """

    def __init__(
        self, vlm: Vlm, folder: Path | None, max_gb: float, with_pre_merger: bool = False
    ) -> None:
        self.vlm, self.folder, self.with_pre_merger = vlm, folder, with_pre_merger
        self.max_bytes = int(max_gb * 1e9)
        self.num_encoded = 0  # photos that the vision tower encoded
        self._keys: dict[str, str] = {}
        self._memory: LRUCache[Features] = LRUCache(attrgetter("nbytes"), MAX_MEMORY_BYTES)
        processor = vlm.processor.image_processor
        settings = [processor.patch_size, processor.merge_size, processor.image_mean]
        settings += [processor.image_std, processor.rescale_factor]
        settings += [str(vlm.float_type), with_pre_merger]
        key_parts = [_VERSION, package_versions(), vlm.hash, *settings]
        self._key_prefix = json.dumps(key_parts, default=list)

    def precompute(self, paths: Sequence[str]) -> None:
        """Encode all photos that are not cached, or raise PhotoError or BaseModelError."""
        new = [path for path in dict.fromkeys(paths) if path not in self._keys]
        uncached: dict[str, Image.Image] = {}
        for path, image in progress_bar(_decode_ahead(new), "photos", len(new), unit="photo"):
            digest = sha256(f"{self._key_prefix} {image.size}".encode())
            digest.update(image.tobytes())
            self._keys[path] = digest.hexdigest()
            if self._find(path) is None:
                uncached[path] = image
            if len(uncached) == DEVICE.num_streams:
                self._encode(uncached)
                uncached.clear()
        self._encode(uncached)

    def get(self, path: str) -> Features:
        if path not in self._keys:
            self.precompute([path])
        return self._find(path) or self._encode({path: read_photo(Path(path))})[0]

    def key(self, path: str) -> str:
        """Return the content key of a photo that `precompute` or `get` read."""
        return self._keys[path]

    def _find(self, path: str) -> Features | None:
        key = self._keys[path]
        features = self._memory.find(key)
        if features is None:
            features = self._read(key)
            if features is not None:
                self._memory.put(key, features)
        return features

    def _encode(self, images: dict[str, Image.Image]) -> list[Features]:
        """Run the vision tower on images, each on its own stream, and cache the features."""
        encoded = encode_images(self.vlm, list(images.values()), self.with_pre_merger)
        for path, features in zip(images, encoded, strict=True):
            self.num_encoded += 1
            self._memory.put(self._keys[path], features)
            self._write(self._keys[path], features)
        if images:
            self._evict()
        return encoded

    def _read(self, key: str) -> Features | None:
        """Read an entry of the folder; None if it is missing or damaged."""
        if self.folder is None or not (self.folder / f"{key}.safetensors").is_file():
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            loaded: Any = mx.load(str(path), return_metadata=True)
            tensors, metadata = loaded
            rows, columns = json.loads(metadata["grid"])
            deepstack = tuple(
                tensors[f"deep.{i}"] for i in range(len(tensors) - 1 - self.with_pre_merger)
            )
            features = Features(tensors["merged"], deepstack, (rows, columns), tensors.get("raw"))
            shape = (rows * columns, features.merged.shape[1])
            if any(a.shape != shape for a in (features.merged, *deepstack)):
                return None
            if not all(bool(mx.all(mx.isfinite(a))) for a in tensors.values()):
                return None
        except (RuntimeError, ValueError, KeyError):
            return None
        with suppress(OSError):
            os.utime(path)
        return features

    def _write(self, key: str, features: Features) -> None:
        if self.folder is None or not self.max_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {"merged": features.merged}
        tensors |= {f"deep.{i}": level for i, level in enumerate(features.deepstack)}
        if features.pre_merger is not None:
            tensors["raw"] = features.pre_merger
        staging = self.folder / f".{key[:16]}.{uuid4().hex[:8]}.safetensors"
        try:
            mx.save_safetensors(str(staging), tensors, {"grid": json.dumps(features.grid)})
            staging.replace(self.folder / f"{key}.safetensors")
        except (OSError, RuntimeError):  # a full disk: a cache is not worth a failed run
            staging.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Keep the folder within its limit; several runs may do so at the same time."""
        if self.folder is None or not self.folder.is_dir():
            return
        with suppress(FileNotFoundError):
            stats = [(f.stat(), f) for f in self.folder.glob("*.safetensors")]
            total = sum(stat.st_size for stat, _ in stats)
            for stat, file in sorted(stats, key=lambda pair: pair[0].st_mtime_ns):
                if total <= self.max_bytes:
                    return
                file.unlink(missing_ok=True)
                total -= stat.st_size


def _decode_ahead(paths: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    """Yield images in order, the next ones decoded in a thread (decoders release the GIL)."""
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(read_photo, Path(path)) for path in paths[:_PREFETCH_PHOTOS]]
        for i, path in enumerate(paths):
            try:
                image = pending.pop(0).result()
            except PhotoError as error:
                message = f"{path}: {error}; prepare again: dvc repro"
                raise PhotoError(error.reason, message) from None
            if i + _PREFETCH_PHOTOS < len(paths):
                pending.append(pool.submit(read_photo, Path(paths[i + _PREFETCH_PHOTOS])))
            yield path, image
