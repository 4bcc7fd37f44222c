"""releases/<advisor>/<version>.json: all that a released version consists of and was made from.

It is committed with the tag and kept as release.json beside the adapter where it serves; what is
served is held to it byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mondrian.core.adapter_folder import REQUIRED_FILES
from mondrian.core.errors import ReleaseError
from mondrian.core.params import Name
from mondrian.core.validation import format_validation_error
from mondrian.registry.version import Version, parse_version, tag_of

RELEASE_FILENAME = "release.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
]


class StrictRecord(BaseModel):
    """Read strictly: a record that is not understood is not served from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ReleaseFile(StrictRecord):
    """One file of the adapter's folder."""

    name: Name
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class BaseModelRecord(StrictRecord):
    source: str
    sha256: Sha256


class GateRecord(StrictRecord):
    value: float | None
    threshold: float
    holds: bool


class ReleaseMetrics(StrictRecord):
    """Of base and adapter on the same photographs (docs/evaluation.md)."""

    index: float
    base_index: float
    score_mae: float | None
    base_score_mae: float | None
    compliance: float


class EvaluationRecord(StrictRecord):
    """failed  gates that did not hold and were overridden, as lines"""

    verdict: str
    photographs: int
    figures: ReleaseMetrics
    gates: dict[str, GateRecord]
    failed: tuple[str, ...]


class Release(StrictRecord):
    """A version.

    adapter_version  by which the service names it, in jobs and in /model-status
    path             of the adapter's folder in the repository
    commit           that it was built from; the record itself is committed on top
    reason          why it was released although gates failed
    """

    form: Literal[1]
    advisor: Name
    version: str
    adapter_version: str
    path: RelativePath
    files: tuple[ReleaseFile, ...]
    base: BaseModelRecord
    prompt_sha256: Sha256
    schema_sha256: Sha256
    data_sha256: Sha256
    image: dict[str, int]
    evaluation: EvaluationRecord
    commit: str
    by: str
    released_at: str
    reason: str | None

    @model_validator(mode="after")
    def _check_files(self) -> Release:
        names = [piece.name.casefold() for piece in self.files]  # a Mac's disk knows no case
        if len(set(names)) < len(names) or RELEASE_FILENAME in names:
            raise ValueError("files names one twice")
        if missing := [name for name in REQUIRED_FILES if name not in names]:
            raise ValueError(f"files does not name {missing[0]}")
        return self

    @property
    def tag(self) -> str:
        """What it is called."""
        return tag_of(self.advisor, parse_version(self.version))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(piece.size for piece in self.files)


def record_path(advisor: str, version: Version) -> str:
    """Where the record of a version lies in the repository."""
    return f"releases/{advisor}/{version}.json"


def serialize_record(release: Release) -> bytes:
    """The file, the same bytes for the same record."""
    return (release.model_dump_json(indent=2) + "\n").encode()


def read_record(content: bytes, advisor: str, version: Version, path: str) -> Release:
    """The record of a version.

    Raises ReleaseError where it is damaged or another version's.
    """
    try:
        release = Release.model_validate_json(content)
    except ValidationError as error:
        raise ReleaseError(
            f"{path} is damaged, or of another version of Mondrian "
            f"({format_validation_error(error)}); bring "
            "this checkout up to date, or release again"
        ) from None
    if (release.advisor, release.version) != (advisor, str(version)):
        raise ReleaseError(f"{path} is of {release.advisor}@{release.version}; release again")
    return release


def same_files(files: Iterable[ReleaseFile], other: Iterable[ReleaseFile]) -> bool:
    """Whether two versions are the same bytes under the same names."""
    return set(files) == set(other)
