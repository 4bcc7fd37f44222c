"""link: jobs database + photographs -> one record a critique, or a named reason why not.

Every finished job of the advisor ends either in `records` or in `rejected`; nothing is dropped in
silence. What can only be seen over many jobs (shared texts, wrong pictures) is judged at the end.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from mondrian.critique import canonical
from mondrian.errors import DataError, PhotoError
from mondrian.files import file_hash
from mondrian.jobs import Job, concerns, count_by_advisor, finished_jobs, open_jobs
from mondrian.manifest import Manifest, Photo, Record, Refusal
from mondrian.params import Link
from mondrian.photo import open_photo, phashes, same_pictures
from mondrian.recover import Reason, Recovered, Rejected, recover
from mondrian.stored import Folders, find_photo, stored_text
from mondrian.suspicion import of_many, of_one

_KEEP = "kept where params.yaml says so under link"


def link(db_path: Path, advisor: str, folders: Folders, params: Link, bits: int) -> Manifest:
    """Account for every finished job of the advisor; `bits` is image.phash_distance.

    Raises DataError where the database cannot be used, knows no such advisor, or yields no pair.
    """
    if not folders.source.is_dir():
        raise DataError(f"{folders.source} is no folder of photographs; give it with --source_dir")
    photos: dict[Path, Photo | PhotoError] = {}
    records: list[Record] = []
    rejected: list[Refusal] = []
    with open_jobs(db_path) as connection:
        counts = count_by_advisor(connection)
        jobs = sum(rows for field, rows in counts.items() if concerns(field, advisor))
        for job in finished_jobs(connection, advisor):
            outcome = _link_job(job, advisor, folders, photos, params)
            if isinstance(outcome, Record):
                records.append(outcome)
            else:
                rejected.append(_refusal(job.id, outcome))
    finished = len(records) + len(rejected)
    records, late = _judge_together(records, params, bits)
    manifest = Manifest(
        advisor=advisor, jobs=jobs, finished=finished, records=records, rejected=rejected + late
    )
    if not records:
        absent = all(r.reason == Reason.ADVISOR_ABSENT for r in manifest.rejected)
        raise DataError(
            _unknown(db_path, advisor, counts) if absent else _nothing_left(db_path, manifest)
        )
    return manifest


def summary(manifest: Manifest) -> str:
    """What a person wants to know, in two lines."""
    counts = manifest.counts()
    lines = (
        f"link {manifest.advisor}: {manifest.finished} finished jobs → {counts['linked']} pairs "
        f"of {counts['photos']} photos; {len(manifest.rejected)} left out"
    )
    reasons = " · ".join(f"{reason} {count}" for reason, count in counts["rejected"].items())
    return f"{lines}\n  {reasons}" if reasons else lines


def _unknown(db_path: Path, advisor: str, counts: dict[str, int]) -> str:
    named = {part.strip() for field in counts for part in field.split(",")} - {"", "all", advisor}
    has = ", ".join(sorted(named)[:10]) or "none"
    return f"{db_path} has no finished job of advisor {advisor!r}; its other advisors are {has}"


def _link_job(
    job: Job, advisor: str, folders: Folders, photos: dict[Path, Photo | PhotoError], params: Link
) -> Record | Rejected:
    text_from, text = stored_text(job, advisor, folders)
    found = (
        recover(text)
        if text_from != Reason.ADVISOR_ABSENT
        else Rejected(
            Reason.ADVISOR_ABSENT, f"{job.advisor!r} asked several; {advisor} did not answer"
        )
    )
    if isinstance(found, Rejected):
        return found
    suspicions = of_one(job, found.critique)
    for reason in suspicions:
        if getattr(params, reason) == "leave_out":
            return Rejected(Reason(reason), _KEEP)
    try:
        photo = _photo(job, folders.source, photos)
    except PhotoError as error:
        return Rejected(Reason(error.reason), str(error))
    return _record(job, photo, found, text_from, suspicions)


def _record(
    job: Job, photo: Photo, found: Recovered, text_from: str, suspicions: tuple[str, ...]
) -> Record:
    return Record(
        job_id=job.id,
        photo=photo,
        critique=found.critique,
        text_from=text_from,
        form=found.form,
        created=job.created,
        mode=job.mode,
        model=job.model,
        suspicions=suspicions,
    )


def _photo(job: Job, source: Path, seen: dict[Path, Photo | PhotoError]) -> Photo:
    path, found = find_photo(job.filename, source)
    if path not in seen:
        try:
            hashes = phashes(open_photo(path))
            seen[path] = Photo(path=str(path), sha256=file_hash(path), phashes=hashes, found=found)
        except PhotoError as error:
            seen[path] = error
    known = seen[path]
    if isinstance(known, PhotoError):
        raise known
    return known


def _judge_together(
    records: list[Record], params: Link, bits: int
) -> tuple[list[Record], list[Refusal]]:
    """Leave out duplicates and, by setting, what is suspicious beside other records."""
    pictures = same_pictures([r.photo.phashes for r in records], bits)
    texts = [sha256(canonical(r.critique).encode()).hexdigest() for r in records]
    suspicions = of_many(pictures, texts, params.critiques_per_photo)
    kept: list[Record] = []
    rejected: list[Refusal] = []
    seen: set[tuple[int, str]] = set()
    for record, pair, found in zip(
        records, zip(pictures, texts, strict=True), suspicions, strict=True
    ):
        out = [name for name in found if getattr(params, name) == "leave_out"]
        if out:
            rejected.append(_refusal(record.job_id, Rejected(Reason(out[0]), _KEEP)))
        elif pair in seen:
            detail = "the same text about the same photograph, linked from an earlier job"
            rejected.append(_refusal(record.job_id, Rejected(Reason.DUPLICATE, detail)))
        else:
            kept.append(record.model_copy(update={"suspicions": (*record.suspicions, *found)}))
        seen.add(pair)
    return kept, rejected


def _refusal(job_id: str, rejected: Rejected) -> Refusal:
    detail = rejected.detail.encode("utf-8", "replace").decode()  # may hold half an emoji
    return Refusal(job_id=job_id, reason=rejected.reason, detail=detail)


def _nothing_left(db_path: Path, manifest: Manifest) -> str:
    reasons = ", ".join(f"{reason} {n}" for reason, n in manifest.counts()["rejected"].items())
    switches = [r for r in Link.model_fields if r in manifest.counts()["rejected"]]
    way = f"; keep some with link.{switches[0]}: keep in params.yaml" if switches else ""
    return (
        f"{db_path}: none of {manifest.finished} finished jobs of {manifest.advisor!r} gives a "
        f"pair ({reasons or 'no finished job'}){way}"
    )
