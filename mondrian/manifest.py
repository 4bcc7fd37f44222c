"""The manifest that link writes and prepare reads: training_data_manifest.json."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mondrian.critique import Critique, explain
from mondrian.errors import DataError
from mondrian.recover import Reason

Hash = Annotated[int, Field(ge=0, lt=2**64)]


class Photo(BaseModel):
    """A photograph that was opened and seen to be one."""

    model_config = ConfigDict(frozen=True)
    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    phashes: tuple[Hash, Hash, Hash, Hash]  # of the four rotations
    found: str  # how: as_stored or without_upload_prefix


class Record(BaseModel):
    """A pair of photograph and critique, and where both came from."""

    model_config = ConfigDict(frozen=True)
    job_id: str
    photo: Photo
    critique: Critique
    text_from: str
    form: str
    created: str
    mode: str
    model: str
    suspicions: tuple[str, ...] = ()  # those that params.yaml says to keep


class Refusal(BaseModel):
    model_config = ConfigDict(frozen=True)
    job_id: str
    reason: Reason
    detail: str


class Manifest(BaseModel):
    """training_data_manifest.json."""

    advisor: str
    jobs: int  # rows that concern the advisor
    finished: int
    records: list[Record]
    rejected: list[Refusal]

    def counts(self) -> dict[str, Any]:
        """What metrics/<advisor>/link.json holds."""
        return {
            "jobs": self.jobs,
            "finished": self.finished,
            "linked": len(self.records),
            "photos": len({r.photo.sha256 for r in self.records}),
            "rejected": dict(Counter(str(r.reason) for r in self.rejected).most_common()),
        }


def read_manifest(path: Path) -> Manifest:
    """Read training_data_manifest.json.

    Raises DataError where it is missing or is no manifest.
    """
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run link first: dvc repro") from None
    except ValidationError as error:
        raise DataError(f"{path} is no manifest ({explain(error)}); run link again") from None
    except ValueError as error:
        raise DataError(f"{path} is no manifest ({error}); run link again") from None
