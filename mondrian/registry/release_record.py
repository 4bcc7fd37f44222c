"""releases/<advisor>/<version>.json: all that a released version consists of and was made from.

It is committed with the tag and kept as release.json beside the adapter where it serves; what is
served is held to it byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mondrian.core.errors import ReleaseError
from mondrian.core.params import Name
from mondrian.critique.schema import explain
from mondrian.model.compatibility import WEIGHED
from mondrian.registry.version import Version, read_version, tag_of

RELEASE = "release.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Below = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]


class Part(BaseModel):
    """Read strictly: a record that is not understood is not served from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Piece(Part):
    """One file of the adapter's folder."""

    name: Name
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Base(Part):
    source: str
    sha256: Sha256


class Gate(Part):
    found: float | None
    asked: float
    holds: bool


class Figures(Part):
    """Of base and adapter on the same photographs (docs/evaluation.md)."""

    index: float
    base_index: float
    score_mae: float | None
    base_score_mae: float | None
    compliance: float


class Evaluation(Part):
    """failed  gates that did not hold and were overridden, as lines"""

    verdict: str
    photographs: int
    figures: Figures
    gates: dict[str, Gate]
    failed: tuple[str, ...]


class Release(Part):
    """A version.

    adapter_version  by which the service names it, in jobs and in /model-status
    path             of the adapter's folder in the repository
    commit           that it was built from; the record itself is committed on top
    because          why it was released although gates failed
    """

    form: Literal[1]
    advisor: Name
    version: str
    adapter_version: str
    path: Below
    files: tuple[Piece, ...]
    base: Base
    prompt_sha256: Sha256
    schema_sha256: Sha256
    data_sha256: Sha256
    image: dict[str, int]
    evaluation: Evaluation
    commit: str
    by: str
    at: str
    because: str | None

    @model_validator(mode="after")
    def _sound(self) -> Release:
        names = [piece.name.casefold() for piece in self.files]  # a Mac's disk knows no case
        if len(set(names)) < len(names) or RELEASE in names:
            raise ValueError("files names one twice")
        if missing := [name for name in (*WEIGHED, "recipe.json") if name not in names]:
            raise ValueError(f"files does not name {missing[0]}")
        return self

    @property
    def tag(self) -> str:
        """What it is called."""
        return tag_of(self.advisor, read_version(self.version))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(piece.size for piece in self.files)


def record_path(advisor: str, version: Version) -> str:
    """Where the record of a version lies in the repository."""
    return f"releases/{advisor}/{version}.json"


def written(release: Release) -> bytes:
    """The file, the same bytes for the same record."""
    return (release.model_dump_json(indent=2) + "\n").encode()


def read_record(content: bytes, advisor: str, version: Version, where: str) -> Release:
    """The record of a version.

    Raises ReleaseError where it is damaged or another version's.
    """
    try:
        found = Release.model_validate_json(content)
    except ValidationError as error:
        raise ReleaseError(
            f"{where} is damaged, or of another version of Mondrian ({explain(error)}); bring "
            "this checkout up to date, or release again"
        ) from None
    if (found.advisor, found.version) != (advisor, str(version)):
        raise ReleaseError(f"{where} is of {found.advisor}@{found.version}; release again")
    return found


def same_files(one: Iterable[Piece], other: Iterable[Piece]) -> bool:
    """Whether two versions are the same bytes under the same names."""
    return set(one) == set(other)
