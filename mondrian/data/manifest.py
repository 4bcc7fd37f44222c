"""The manifest that link writes and prepare reads: training_data_manifest.json.

It is one JSON object with one record a line, so that neither side ever holds all texts at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mondrian.core.errors import DataError
from mondrian.core.files import open_atomic
from mondrian.core.validation import format_validation_error
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import Critique

SECTION_NAMES = ("records", "left_out", "rejected")
Sha256Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FROZEN_CONFIG = ConfigDict(frozen=True, extra="forbid")
LineModel = TypeVar("LineModel", bound=BaseModel)
SectionLines = Mapping[str, Iterable[str]]  # each line a record as JSON


class Photo(BaseModel):
    """A photograph that was opened and seen to be one."""

    model_config = FROZEN_CONFIG
    path: str
    sha256: Sha256Hex
    width: int  # pixels, as stored
    height: int
    group: str  # photographs that show the same share it
    found: str  # how the row's name led to it, as in album.Album.find


class ReviewProvenance(BaseModel):
    """What a person decided of a critique that was served: it is training data for that."""

    model_config = FROZEN_CONFIG
    verdict: Literal["accepted", "corrected"]
    served_by: str  # as jobs.model_used
    adapter_version: str  # empty of the base
    who: str
    at: float  # seconds since 1970


class ManifestRecord(BaseModel):
    """A pair of photograph and critique, and where both came from."""

    model_config = FROZEN_CONFIG
    job_id: str
    photo: Photo
    critique: Critique
    words: Sha256Hex  # of the critique's text: suspicion.words_hash
    text_from: str
    form: str  # json or cards
    repairs: tuple[str, ...]  # what was done to read it
    created: str
    mode: str
    model: str
    suspicions: tuple[str, ...]
    reason: RejectionReason | None = None  # why it is left out
    review: ReviewProvenance | None = None


class RejectedJob(BaseModel):
    """A finished job that gives no record."""

    model_config = FROZEN_CONFIG
    job_id: str
    reason: RejectionReason
    detail: str


class LinkCounts(BaseModel):
    """What metrics/<advisor>/link.json holds."""

    model_config = FROZEN_CONFIG
    jobs: int  # rows that concern the advisor
    finished: int
    linked: int
    photos: int  # different ones that are linked
    rejected: dict[RejectionReason, int]
    suspicions: dict[str, int]  # how often each flag is borne, by records kept or not
    forms: dict[str, int]
    repairs: dict[str, int]
    found: dict[str, int]
    reviewed: dict[str, int] = {}  # of the linked ones: accepted and corrected by a person


class ManifestHeader(BaseModel):
    """The first line: whose manifest it is and what was counted, as in metrics/.../link.json."""

    model_config = FROZEN_CONFIG
    advisor: str
    counts: LinkCounts


class Manifest:
    """A manifest on the disk; each list is read anew, one record at a time."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is missing or is no manifest."""
        self.path = path
        head = next(self._lines("head", ManifestHeader), None) or self._raise_invalid_manifest(
            "it is empty"
        )
        self.advisor, self.counts = head.advisor, head.counts

    def records(self) -> Iterator[ManifestRecord]:
        """What can be trained on."""
        return self._lines("records", ManifestRecord)

    def left_out_records(self) -> Iterator[ManifestRecord]:
        """Whole records that are left out: suspicious ones by setting, and duplicates."""
        return self._lines("left_out", ManifestRecord)

    def rejected_jobs(self) -> Iterator[RejectedJob]:
        """Every job that gives no record of `records`, with its reason."""
        return self._lines("rejected", RejectedJob)

    def _lines(self, section_name: str, kind: type[LineModel]) -> Iterator[LineModel]:
        section = "head"
        try:
            with self.path.open(encoding="utf-8") as file:
                for line in file:
                    text = line.strip().rstrip(",")
                    if section != "head" and text in ("]", "]}"):
                        section = "end" if text == "]}" else "between"
                    elif text.startswith('"') and text.endswith("["):
                        section = json.loads(text[:-1].rstrip(": "))
                    elif section == section_name:
                        yield kind.model_validate_json(
                            text + "}" if section_name == "head" else text
                        )
                if section != "end":
                    self._raise_invalid_manifest("it is cut off")
        except FileNotFoundError:
            raise DataError(f"{self.path} does not exist; run link first: dvc repro") from None
        except ValidationError as error:
            self._raise_invalid_manifest(format_validation_error(error)[:200])
        except ValueError as error:
            self._raise_invalid_manifest(str(error)[:200])

    def _raise_invalid_manifest(self, why: str) -> Any:
        raise DataError(f"{self.path} is no manifest as link writes it ({why}); run link again")


def count_outcomes(counts: Mapping[str, Any]) -> dict[str, int]:
    """What became of the finished jobs: how many are linked, and how many have each reason."""
    return {"linked": counts["linked"], **counts["rejected"]}


def write_manifest(path: Path, advisor: str, counts: Any, lists: SectionLines) -> None:
    """Write a manifest, all or nothing.

    lists  records, left_out and rejected
    """
    head = json.dumps({"advisor": advisor, "counts": counts}, ensure_ascii=False)
    with open_atomic(path) as file:
        file.write(head[:-1])
        for name in SECTION_NAMES:
            file.write(f',\n"{name}": [')
            for i, line in enumerate(lists[name]):
                file.write((",\n" if i else "\n") + line)
            file.write("\n]")
        file.write("}\n")
