"""releases/<advisor>/<version>.json: the files of a released version and what it was made from.

It is committed with the tag, and installed as release.json with the adapter on a serving machine.
The two must be the same byte for byte.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mondrian.core.adapter_folder import REQUIRED_FILES
from mondrian.core.errors import ReleaseError
from mondrian.core.params import PathName
from mondrian.core.validation import format_validation_error
from mondrian.critique.calibration import Calibration
from mondrian.registry.version import Version, parse_version, version_tag

RELEASE_FILE = "release.json"
CARD_FILE = "README.md"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
]


class StrictRecord(BaseModel):
    """A record that is rejected if it has unknown keys or wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ReleaseFile(StrictRecord):
    name: PathName
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
    """Metrics of adapter and base on the same photos (docs/evaluation.md)."""

    index: float
    base_index: float
    score_mae: float | None
    base_score_mae: float | None
    compliance: float


class EvaluationRecord(StrictRecord):
    """The verdict; `failed` lists the gates that were overridden, a line each."""

    verdict: str
    photographs: int
    figures: ReleaseMetrics
    gates: dict[str, GateRecord]
    failed: tuple[str, ...]


class EstimateRecord(StrictRecord):
    """A mean difference with its 95 % interval; above 0 means that the adapter is better."""

    mean: float
    low: float | None
    high: float | None
    groups: int


class FinalTest(StrictRecord):
    """What the test split said, on which nothing was selected."""

    verdict: str
    photographs: int
    photograph_groups: int
    text_only_photographs: int
    comparisons: dict[str, EstimateRecord]
    rows_sha256: Sha256


class Release(StrictRecord):
    form: Literal[1]
    advisor: PathName
    version: str
    adapter_version: str  # its name in jobs and in /model-status
    path: RelativePath  # of the adapter's folder in the repository
    files: tuple[ReleaseFile, ...]
    base: BaseModelRecord
    prompt_sha256: Sha256
    schema_sha256: Sha256
    data_sha256: Sha256
    image: dict[str, int]
    evaluation: EvaluationRecord
    calibration: Calibration | None = None  # of its scores; None: they are shown as generated
    commit: str  # it was built from; the record itself is committed on top
    by: str
    released_at: str
    reason: str | None  # for the release although gates failed
    test: FinalTest | None = None  # no test split, or released before test was read
    card: ReleaseFile | None = None  # README.md; in git, not in DVC

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        names = [file.name.casefold() for file in self.files]  # macOS ignores case
        if len(set(names)) < len(names) or {RELEASE_FILE, CARD_FILE.casefold()} & set(names):
            raise ValueError("files names one twice")
        if self.card is not None and self.card.name != CARD_FILE:
            raise ValueError(f"card is not {CARD_FILE}")
        if missing := [name for name in REQUIRED_FILES if name not in names]:
            raise ValueError(f"files does not name {missing[0]}")
        return self

    @property
    def tag(self) -> str:
        return version_tag(self.advisor, parse_version(self.version))

    @property
    def installed_files(self) -> tuple[ReleaseFile, ...]:
        """Return the files of a version's folder, without the record itself."""
        return self.files if self.card is None else (*self.files, self.card)

    @property
    def size(self) -> int:
        """Total bytes of the files in DVC."""
        return sum(file.size for file in self.files)


def record_path(advisor: str, version: Version) -> str:
    """Return the path of a version's record in the repository."""
    return f"releases/{advisor}/{version}.json"


def card_path(advisor: str, version: Version) -> str:
    """Return the path of a version's model card in the repository."""
    return f"releases/{advisor}/{version}.md"


def serialize_record(release: Release) -> bytes:
    """Return the file's content, the same bytes for the same record."""
    return (release.model_dump_json(indent=2) + "\n").encode()


def read_record(content: bytes, advisor: str, version: Version, path: str) -> Release:
    """Parse a version's record, or raise ReleaseError if it is damaged or another version's."""
    try:
        release = Release.model_validate_json(content)
    except ValidationError as error:
        raise ReleaseError(
            f"{path} is damaged, or of another version of Mondrian "
            f"({format_validation_error(error)}); update this checkout, or release again"
        ) from None
    if (release.advisor, release.version) != (advisor, str(version)):
        raise ReleaseError(f"{path} is of {release.advisor}@{release.version}; release again")
    return release
