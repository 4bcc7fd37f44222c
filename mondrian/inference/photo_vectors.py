"""Vectors of photos by the vision tower of a base, computed once and kept in a folder."""

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np

from mondrian.core.errors import EvaluationError, PhotoError
from mondrian.core.fields import FloatArray
from mondrian.core.files import write_bytes
from mondrian.core.gpu_errors import explain_gpu_errors
from mondrian.core.parallel import split_into_batches
from mondrian.core.params import ImageParams
from mondrian.core.terminal import progress_bar
from mondrian.inference.photo_files import PhotoFile
from mondrian.inference.photo_reader import decode_ahead
from mondrian.model.device import DEVICE
from mondrian.model.photo_summary import summarize_features
from mondrian.model.vlm import Vlm, encode_images

_VERSION = 1  # of the vectors
_MEMORY_FIX = "close other programs, or lower machine.cache_limit_gb; vectors are kept"


class PhotoVectors:
    """The vectors of photos by content (sha256); `faults` has the photos without one."""

    def __init__(self, vlm: Vlm, image_params: ImageParams, folder: Path) -> None:
        self.faults: dict[str, PhotoError] = {}
        self._vlm, self._image_params, self._folder = vlm, image_params, folder
        self._vectors: dict[str, FloatArray] = {}

    def compute(self, photos: Sequence[PhotoFile]) -> None:
        """Read or compute the vector of each photo."""
        missing: dict[str, PhotoFile] = {}
        for photo in photos:
            if photo.sha256 not in self._vectors and not self._read(photo.sha256):
                missing[photo.sha256] = photo
        with progress_bar(total=len(missing), desc="photos", unit="photo") as bar:
            decoded = decode_ahead(list(missing.values()), None, self._image_params)
            for batch in split_into_batches(decoded, DEVICE.num_streams):
                images = {}
                for photo, image in batch:
                    if isinstance(image, PhotoError):
                        self.faults[photo.sha256] = image
                    else:
                        images[photo.sha256] = image
                with explain_gpu_errors(EvaluationError, _MEMORY_FIX):
                    encoded = encode_images(self._vlm, list(images.values()))
                for name, features in zip(images, encoded, strict=True):
                    self._add(name, summarize_features(features))
                bar.update(len(batch))

    def get(self, sha256: str) -> FloatArray | None:
        """Return the vector of a photo that `compute` had, or None if it has none."""
        return self._vectors.get(sha256)

    def _read(self, name: str) -> bool:
        with suppress(OSError, ValueError, EOFError):  # there is none, or it is damaged
            self._vectors[name] = np.load(BytesIO(self._path(name).read_bytes()))
        return name in self._vectors

    def _add(self, name: str, vector: FloatArray) -> None:
        self._vectors[name] = vector
        content = BytesIO()
        np.save(content, vector)
        with suppress(OSError):  # a full disk: it is computed again
            write_bytes(self._path(name), content.getvalue())

    def _path(self, name: str) -> Path:
        limits = [self._image_params.min_pixels, self._image_params.max_pixels]
        key = json.dumps([_VERSION, self._vlm.hash, str(self._vlm.float_type), limits, name])
        return self._folder / f"{sha256(key.encode()).hexdigest()[:32]}.npy"
