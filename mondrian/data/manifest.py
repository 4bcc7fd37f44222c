"""The manifest that link writes and prepare reads: training_data_manifest.json.

It is one JSON object with one record per line, so that neither stage has all texts in memory.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mondrian.core.errors import DataError
from mondrian.core.files import open_atomic_file
from mondrian.core.validation import format_validation_error
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import Critique

SECTION_NAMES = ("records", "left_out", "rejected")
Sections = Mapping[str, Iterable[str]]
Sha256Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Entry = TypeVar("Entry", bound=_Frozen)


class Photo(_Frozen):
    path: str
    sha256: Sha256Hex
    width: int  # pixels, as stored
    height: int
    group: str  # shared by near-duplicates
    match_kind: str  # how the row's filename led to it; see MatchKind in photo_index.py
    captured: str = ""  # when, in ISO 8601, with the offset if the camera wrote one
    copy_kind: str = ""  # how it differs from the group's first photo; empty for that one


class ReviewProvenance(_Frozen):
    """The review that makes a served critique training data."""

    verdict: Literal["accepted", "corrected"]
    served_by: str  # as jobs.model_used
    adapter_version: str  # empty for the base
    who: str
    reviewed_at: float  # seconds since 1970


class ManifestRecord(_Frozen):
    job_id: str
    photo: Photo
    critique: Critique
    extra_scores: tuple[float, ...] = ()  # of dimensions other than the seven
    words: Sha256Hex  # quality_flags.words_hash of the critique
    text_from: str
    form: str  # json or cards
    repairs: tuple[str, ...]
    created: str
    mode: str
    model: str
    suspicions: tuple[str, ...]  # quality flags
    notes: tuple[str, ...] = ()  # what was assumed: an encoding, an ignored color profile
    scored: bool = True  # False: only its text is used; its scores are missing or a constant
    reason: RejectionReason | None = None  # of a record that is left out
    review: ReviewProvenance | None = None


class RejectedJob(_Frozen):
    job_id: str
    photo: str = ""  # its path, or its name as stored
    reason: RejectionReason
    detail: str


class LinkCounts(_Frozen):
    """The content of metrics/<advisor>/link.json."""

    jobs: int  # rows that are for the advisor
    finished: int
    linked: int
    photos: int  # distinct photos that are linked
    rejected: dict[RejectionReason, int]
    suspicions: dict[str, int]  # records with each flag, used or not
    forms: dict[str, int]
    repairs: dict[str, int]
    match_kinds: dict[str, int]
    reviewed: dict[str, int] = {}  # linked records accepted and corrected by a person
    text_only: int = 0  # linked records whose scores are not used


class ManifestHeader(_Frozen):
    advisor: str
    counts: LinkCounts


class Manifest:
    """A manifest on disk; a section is read when it is requested, one record at a time."""

    def __init__(self, path: Path) -> None:
        """Raise DataError if the file is missing or invalid."""
        self.path = path
        header = next(self._read_section("header", ManifestHeader), None)
        if header is None:
            self._raise_invalid("it is empty")
        self.advisor, self.counts = header.advisor, header.counts

    def records(self) -> Iterator[ManifestRecord]:
        return self._read_section("records", ManifestRecord)

    def left_out_records(self) -> Iterator[ManifestRecord]:
        return self._read_section("left_out", ManifestRecord)

    def rejected_jobs(self) -> Iterator[RejectedJob]:
        """Yield every job that is not in `records`, with its reason."""
        return self._read_section("rejected", RejectedJob)

    def _read_section(self, name: str, model: type[Entry]) -> Iterator[Entry]:
        section = "header"
        try:
            with self.path.open(encoding="utf-8") as file:
                for line in file:
                    text = line.strip().rstrip(",")
                    if section != "header" and text in ("]", "]}"):
                        section = "end" if text == "]}" else "between"
                    elif text.startswith('"') and text.endswith("["):
                        section = json.loads(text[:-1].rstrip(": "))
                    elif section == name:
                        yield model.model_validate_json(text + "}" if name == "header" else text)
                if section != "end":
                    self._raise_invalid("it is cut off")
        except FileNotFoundError:
            raise DataError(f"{self.path} does not exist; run link first: dvc repro") from None
        except ValidationError as error:
            self._raise_invalid(format_validation_error(error)[:200])
        except ValueError as error:
            self._raise_invalid(str(error)[:200])

    def _raise_invalid(self, problem: str) -> NoReturn:
        raise DataError(f"{self.path} is not a manifest of link ({problem}); run link again")


def count_outcomes(counts: Mapping[str, Any]) -> dict[str, int]:
    return {"linked": counts["linked"], **counts["rejected"]}


def write_manifest(path: Path, advisor: str, counts: Any, sections: Sections) -> None:
    """Write a manifest atomically; `sections` has lines of JSON for each of SECTION_NAMES."""
    header = json.dumps({"advisor": advisor, "counts": counts}, ensure_ascii=False)
    with open_atomic_file(path) as file:
        file.write(header[:-1])
        for name in SECTION_NAMES:
            file.write(f',\n"{name}": [')
            for i, line in enumerate(sections[name]):
                file.write((",\n" if i else "\n") + line)
            file.write("\n]")
        file.write("}\n")
