"""link: jobs + photographs -> one record a critique, or a named reason why not.

Every finished job of the advisor ends as a record or under a reason; nothing is dropped in silence.
A job's text is examined in parallel processes, its photograph once for all jobs that name it, and
what only many jobs show at the end (mondrian/data/dataset_filters.py).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from tqdm import tqdm

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.fields import is_for_advisor
from mondrian.core.parallel import split_into_batches, spread
from mondrian.core.params import Image, Link
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders, find_critique_text
from mondrian.data.dataset_filters import apply_dataset_filters, group_near_duplicates
from mondrian.data.jobs import Job, Review
from mondrian.data.link_store import ExaminedJob, LinkStore
from mondrian.data.manifest import write_manifest
from mondrian.data.photo_index import PhotoIndex
from mondrian.data.photo_scan import scan_photos
from mondrian.data.quality_flags import FLAG_COSTS, FLAGS, find_record_flags, words_hash
from mondrian.data.review_filter import (
    build_review_provenance,
    is_review_trainable,
    reject_outdated_review,
    reject_unreviewed,
)
from mondrian.data.sources import open_source

MANIFEST_NAME = "training_data_manifest.json"
_BATCH, _ALONE = 250, 4  # jobs examined at a time, and batches that are not worth a process


@dataclass(frozen=True)
class LinkContext:
    """What the examination of one job needs."""

    advisor: str
    folders: ApplicationFolders
    params: Link

    @cached_property
    def photo_index(self) -> PhotoIndex:
        """The photographs, listed once a process."""
        return PhotoIndex(self.folders.source, self.params.thumbnails == "use")


def link(
    source: Path, desk: LinkContext, image: Image, cache: Path, output_dir: Path
) -> dict[str, Any]:
    """Account for every finished job of the advisor; returns the counts.

    source      a database or list, as source.locate gives it
    cache       folder that remembers photographs from run to run
    output_dir  gets training_data_manifest.json

    Raises DataError where the source cannot be used, knows no such advisor, or yields no pair.
    """
    _ = desk.photo_index  # no photographs, no work
    try:
        return _link(source, desk, image, cache, output_dir / MANIFEST_NAME)
    except sqlite3.Error as error:  # of the ledger; source and cache name their own
        raise DataError(f"{gettempdir()}: {error}; make room there, or set TMPDIR") from None


def _link(
    source: Path, desk: LinkContext, image: Image, cache: Path, manifest: Path
) -> dict[str, Any]:
    with LinkStore() as ledger:
        rows, finished = _examine(source, desk, ledger)
        ledger.add_photos(scan_photos(ledger.photo_paths(), cache))
        ledger.set_pictures(group_near_duplicates(ledger.thumbnails(), image))
        flags = apply_dataset_filters(ledger, desk.params)
        counts = _count(ledger, desk.advisor, rows, flags)
        assert counts["finished"] == finished, f"{counts} of {finished} finished jobs"
        if not counts["linked"]:
            raise DataError(_explain_no_pairs(source, desk.advisor, rows, counts, ledger))
        lists = {
            "records": ledger.records(left_out=False),
            "left_out": ledger.records(left_out=True),
            "rejected": ledger.iter_rejected_json(),
        }
        write_manifest(manifest, desk.advisor, counts, lists)
    return counts


def format_link_summary(advisor: str, counts: dict[str, Any]) -> str:
    """What a person wants to know, in a few lines."""
    out = sum(counts["rejected"].values())
    lines = [
        f"link {advisor}: {counts['finished']} finished jobs → {counts['linked']} pairs "
        f"of {counts['photos']} photos; {out} left out"
    ]
    for start in range(0, len(counts["rejected"]), 6):
        reason_counts = list(counts["rejected"].items())[start : start + 6]
        lines.append("  " + " · ".join(f"{reason} {count}" for reason, count in reason_counts))
    if counts["reviewed"]:
        verdict_text = " · ".join(
            f"{verdict} {count}" for verdict, count in counts["reviewed"].items()
        )
        lines.append(f"  reviewed by a person, of the pairs: {verdict_text}")
    if RejectionReason.UNREVIEWED in counts["rejected"]:
        lines.append("  unreviewed no longer is what a person accepts or corrects on its page")
    if suspect := [name for name in FLAGS if name in counts["rejected"]]:
        lines.append(f"  link.NAME: keep in params.yaml would take {', '.join(suspect)}")
    return "\n".join(lines)


def _examine(source: Path, desk: LinkContext, ledger: LinkStore) -> tuple[dict[str, int], int]:
    """Enter every finished job; returns the rows for each value of the advisor field, and how many
    were finished.
    """
    entered = 0
    with open_source(source) as jobs, tqdm(desc="jobs", unit="job", leave=False) as bar:
        rows = jobs.count_by_advisor()
        bar.total = _count_advisor_jobs(rows, desk.advisor)  # at most: not all of them are finished
        job_batches = split_into_batches(jobs.iter_finished(desk.advisor), _BATCH)
        for examined in spread(_examine_batch, replace(desk), job_batches, _ALONE):
            ledger.add_jobs(examined)
            entered += len(examined)
            bar.update(len(examined))
    return rows, entered


def _examine_batch(desk: LinkContext, jobs: list[Job]) -> list[ExaminedJob]:
    return [_examine_job(desk, job) for job in jobs]


def _examine_job(desk: LinkContext, job: Job) -> ExaminedJob:
    review = job.review if is_review_trainable(job.review, desk.params.include_served) else None
    if job.kind and review is None:  # whatever the other settings say
        return _reject_job(
            job, reject_unreviewed(job.review, job.model_used, desk.params.include_served)
        )
    outcome = _read_critique(desk, job, review)
    if isinstance(outcome, Rejection):
        return _reject_job(job, outcome)
    place, parsed, review = outcome
    try:
        path, match_kind = desk.photo_index.find(job.filename)
    except PhotoError as error:
        return _reject_job(job, Rejection(RejectionReason(error.reason), str(error)))
    flags = find_record_flags(job, parsed, desk.params.overall_tolerance)
    words = words_hash(parsed.critique)
    record = {
        "job_id": job.id,
        "critique": json.loads(serialize_critique(parsed.critique)),
        "words": words,
        "text_from": place,
        "form": parsed.source_format,
        "repairs": parsed.repairs,
        "created": job.created_at_iso(),
        "mode": job.mode,
        "model": job.model,
        "review": review and build_review_provenance(review, job.model_used, job.adapter_version),
    }
    line = _replace_surrogates(json.dumps(record, ensure_ascii=False))
    return ExaminedJob(
        job.timestamp,
        _replace_surrogates(job.id),
        "",
        "",
        str(path),
        match_kind,
        words,
        " ".join(flags),
        review.verdict if review else "",
        line,
    )


def _read_critique(
    desk: LinkContext, job: Job, review: Review | None
) -> tuple[str, ParsedCritique, Review | None] | Rejection:
    """Where the critique is stored, what it says, and the review, where that is of this text."""
    place, parsed = _parse_stored_critique(desk, job)
    now = "" if isinstance(parsed, Rejection) else serialize_critique(parsed.critique)
    if review and now != review.original:
        if job.kind:
            return reject_outdated_review(job.model_used)
        review = None
    if review and review.critique:
        place, parsed = "feedback", parse_critique(review.critique, desk.advisor, job.prompts())
    return parsed if isinstance(parsed, Rejection) else (place, parsed, review)


def _parse_stored_critique(desk: LinkContext, job: Job) -> tuple[str, ParsedCritique | Rejection]:
    stored = find_critique_text(job, desk.advisor, desk.folders)
    if isinstance(stored, Rejection):
        return "", stored
    place, text = stored
    return place, parse_critique(text, desk.advisor, job.prompts())


def _reject_job(job: Job, why: Rejection) -> ExaminedJob:
    return ExaminedJob(
        job.timestamp, _replace_surrogates(job.id), str(why.reason), _replace_surrogates(why.detail)
    )


def _replace_surrogates(text: str) -> str:
    """Without half an emoji, which no file could hold."""
    return text.encode("utf-8", "replace").decode()


def _count(
    ledger: LinkStore, advisor: str, rows: dict[str, int], flags: Counter[str]
) -> dict[str, Any]:
    """What metrics/<advisor>/link.json holds."""
    record_counts, rejected = ledger.count_records(), ledger.count_reasons()
    return {
        "jobs": _count_advisor_jobs(rows, advisor),
        "finished": record_counts["linked"] + sum(rejected.values()),
        "linked": record_counts["linked"],
        "photos": record_counts["photos"],
        "rejected": rejected,
        "suspicions": dict(sorted(flags.items())),
        "forms": record_counts["forms"],
        "repairs": record_counts["repairs"],
        "found": record_counts["found"],
        "reviewed": record_counts["reviewed"],
    }


def _count_advisor_jobs(rows: dict[str, int], advisor: str) -> int:
    return sum(count for field, count in rows.items() if is_for_advisor(field, advisor))


def _explain_no_pairs(
    source: Path, advisor: str, rows: dict[str, int], counts: dict[str, Any], ledger: LinkStore
) -> str:
    if not counts["finished"] or set(counts["rejected"]) == {RejectionReason.ADVISOR_ABSENT}:
        named = {part.strip() for field in rows for part in field.split(",")} - {"", "all", advisor}
        has = ", ".join(sorted(named)[:10]) or "none"
        return f"{source} has no finished job of advisor {advisor!r}; its other advisors are {has}"
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
    waiting = counts["rejected"].get(RejectionReason.UNREVIEWED, 0)
    lines = [
        f"{source}: none of {counts['finished']} finished jobs of {advisor!r} gives a pair "
        f"({reasons})"
    ]
    if waiting:
        lines.append(f"  {waiting} were served here: accept or correct them on their pages")
    for flags, count in ledger.count_left_out_by_flags().most_common(5):
        cost = "; ".join(FLAG_COSTS[name] for name in flags)
        switches = ", ".join(f"link.{name}: keep" for name in flags)
        lines.append(f"  {switches} in params.yaml gives up to {count}: {cost}")
    return "\n".join(lines)
