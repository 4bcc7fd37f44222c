"""Stage link: each finished job becomes a training pair, or is rejected with a reason code.

A job's text is examined in parallel processes, and its photo once for all jobs that name it. The
filters that compare jobs come last (mondrian/data/quality_flags.py).
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
from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.core.params import Image, Link
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders, find_critique_text
from mondrian.data.jobs import Job, Review
from mondrian.data.link_store import ExaminedJob, LinkStore, open_link_store
from mondrian.data.manifest import write_manifest
from mondrian.data.near_duplicates import group_near_duplicates
from mondrian.data.photo_index import PhotoIndex
from mondrian.data.photo_scan import scan_photos
from mondrian.data.quality_flags import (
    FLAG_COSTS,
    FLAGS,
    apply_dataset_filters,
    find_record_flags,
    is_review_trainable,
    reject_unreviewed,
    words_hash,
)
from mondrian.data.sources import open_source

MANIFEST_NAME = "training_data_manifest.json"
_BATCH_SIZE = 250  # jobs
_MAX_SERIAL = 4  # batches that are examined without starting processes


@dataclass(frozen=True)
class LinkContext:
    """What the examination of each job needs."""

    advisor: str
    folders: ApplicationFolders
    params: Link

    @cached_property
    def photo_index(self) -> PhotoIndex:
        """The photos, listed once per process."""
        return PhotoIndex(self.folders.source, self.params.thumbnails == "use")


def link(
    source: Path, context: LinkContext, image: Image, cache: Path, output_dir: Path
) -> dict[str, Any]:
    """Account for every finished job of the advisor and return the counts.

    source      a database or list, as sources.locate_source returns it
    cache       folder that stores what is known of photos between runs
    output_dir  receives training_data_manifest.json

    Raises DataError if the source is invalid, has no such advisor, or gives no pair.
    """
    _ = context.photo_index  # raises if there is no photo folder
    try:
        with open_link_store() as store:
            rows, finished = _examine_jobs(source, context, store)
            store.add_photos(scan_photos(store.photo_paths(), cache))
            store.set_pictures(group_near_duplicates(store.thumbnails(), image))
            flags = apply_dataset_filters(store, context.params)
            counts = _count(store, context.advisor, rows, flags)
            assert counts["finished"] == finished, f"{counts} of {finished} finished jobs"
            if not counts["linked"]:
                raise DataError(_explain_no_pairs(source, context.advisor, rows, counts, store))
            sections = {
                "records": store.records(left_out=False),
                "left_out": store.records(left_out=True),
                "rejected": store.iter_rejected_json(),
            }
            write_manifest(output_dir / MANIFEST_NAME, context.advisor, counts, sections)
        return counts
    except sqlite3.Error as error:  # of the store; source and cache convert their own errors
        raise DataError(f"{gettempdir()}: {error}; make room there, or set TMPDIR") from None


def format_link_summary(advisor: str, counts: dict[str, Any]) -> str:
    """Return the counts as a few lines of text."""
    rejected = counts["rejected"]
    lines = [
        f"link {advisor}: {counts['finished']} finished jobs → {counts['linked']} pairs "
        f"from {counts['photos']} photos; {sum(rejected.values())} rejected"
    ]
    reasons = [f"{reason} {count}" for reason, count in rejected.items()]
    lines += ["  " + " · ".join(reasons[i : i + 6]) for i in range(0, len(reasons), 6)]
    if counts["reviewed"]:
        verdicts = " · ".join(f"{name} {count}" for name, count in counts["reviewed"].items())
        lines.append(f"  pairs reviewed by a person: {verdicts}")
    if RejectionReason.UNREVIEWED in rejected:
        lines.append("  unreviewed critiques: accept or correct them on their pages to use them")
    if flags := [name for name in FLAGS if name in rejected]:
        lines.append(f"  link.NAME: keep in params.yaml would use {', '.join(flags)}")
    return "\n".join(lines)


def _examine_jobs(
    source: Path, context: LinkContext, store: LinkStore
) -> tuple[dict[str, int], int]:
    """Store every finished job; return the rows per value of the advisor field, and the number."""
    finished = 0
    with open_source(source) as jobs, tqdm(desc="jobs", unit="job", leave=False) as bar:
        rows = jobs.count_by_advisor()
        bar.total = _count_advisor_jobs(rows, context.advisor)  # finished or not
        batches = split_into_batches(jobs.iter_finished(context.advisor), _BATCH_SIZE)
        for examined in map_in_processes(_examine_batch, replace(context), batches, _MAX_SERIAL):
            store.add_jobs(examined)
            finished += len(examined)
            bar.update(len(examined))
    return rows, finished


def _examine_batch(context: LinkContext, jobs: list[Job]) -> list[ExaminedJob]:
    return [_examine_job(context, job) for job in jobs]


def _examine_job(context: LinkContext, job: Job) -> ExaminedJob:
    outcome = _build_pair(context, job)
    job_id = _replace_surrogates(job.id)
    if isinstance(outcome, Rejection):
        detail = _replace_surrogates(outcome.detail)
        return ExaminedJob(job.timestamp, job_id, str(outcome.reason), detail)
    return outcome._replace(id=job_id, record=_replace_surrogates(outcome.record))


def _build_pair(context: LinkContext, job: Job) -> ExaminedJob | Rejection:
    review = job.review if is_review_trainable(job.review, context.params) else None
    if job.kind and review is None:  # regardless of the flags
        return reject_unreviewed(job, context.params)
    outcome = _read_critique(context, job, review)
    if isinstance(outcome, Rejection):
        return outcome
    text_from, parsed, review = outcome
    try:
        path, match_kind = context.photo_index.find(job.filename)
    except PhotoError as error:
        return Rejection(RejectionReason[error.reason.upper()], str(error))
    words = words_hash(parsed.critique)
    record = {
        "job_id": job.id,
        "critique": json.loads(serialize_critique(parsed.critique)),
        "words": words,
        "text_from": text_from,
        "form": parsed.source_format,
        "repairs": parsed.repairs,
        "created": job.created_at_iso(),
        "mode": job.mode,
        "model": job.model,
        "review": review
        and {
            "verdict": review.verdict,
            "served_by": job.model_used,
            "adapter_version": job.adapter_version,
            "who": review.who,
            "reviewed_at": review.reviewed_at,
        },
    }
    return ExaminedJob(
        job.timestamp,
        job.id,
        path=str(path),
        match_kind=match_kind,
        words=words,
        flags=" ".join(find_record_flags(job, parsed, context.params.overall_tolerance)),
        review=review.verdict if review else "",
        record=json.dumps(record, ensure_ascii=False),
    )


def _read_critique(
    context: LinkContext, job: Job, review: Review | None
) -> tuple[str, ParsedCritique, Review | None] | Rejection:
    """Return the source of the critique, the critique, and the review if it is of this text."""
    stored = find_critique_text(job, context.advisor, context.folders)
    parsed: ParsedCritique | Rejection
    if isinstance(stored, Rejection):
        source, parsed = "", stored
    else:
        source, text = stored
        parsed = parse_critique(text, context.advisor, job.prompts())
    canonical = "" if isinstance(parsed, Rejection) else serialize_critique(parsed.critique)
    if review and canonical != review.original:
        if job.kind:
            detail = f"served by {job.model_used or 'the base'}; its text changed after the review"
            return Rejection(RejectionReason.UNREVIEWED, detail)
        review = None
    if review and review.critique:
        source = "feedback"
        parsed = parse_critique(review.critique, context.advisor, job.prompts())
    return parsed if isinstance(parsed, Rejection) else (source, parsed, review)


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates (half an emoji), which cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _count(
    store: LinkStore, advisor: str, rows: dict[str, int], flags: Counter[str]
) -> dict[str, Any]:
    """Return the content of metrics/<advisor>/link.json."""
    linked, photos = store.count_pairs()
    rejected = store.count_reasons()
    return {
        "jobs": _count_advisor_jobs(rows, advisor),
        "finished": linked + sum(rejected.values()),
        "linked": linked,
        "photos": photos,
        "rejected": rejected,
        "suspicions": dict(sorted(flags.items())),
        **store.count_origins(),
    }


def _count_advisor_jobs(rows: dict[str, int], advisor: str) -> int:
    return sum(count for field, count in rows.items() if is_for_advisor(field, advisor))


def _explain_no_pairs(
    source: Path, advisor: str, rows: dict[str, int], counts: dict[str, Any], store: LinkStore
) -> str:
    rejected = counts["rejected"]
    if not counts["finished"] or set(rejected) == {RejectionReason.ADVISOR_ABSENT}:
        others = {part.strip() for field in rows for part in field.split(",")} - {
            "",
            "all",
            advisor,
        }
        names = ", ".join(sorted(others)[:10]) or "none"
        return f"{source} has no finished job of advisor {advisor!r}; its other advisors: {names}"
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    lines = [
        f"{source}: none of {counts['finished']} finished jobs of {advisor!r} gives a pair "
        f"({reasons})"
    ]
    if unreviewed := rejected.get(RejectionReason.UNREVIEWED):
        lines.append(f"  {unreviewed} were served here: accept or correct them on their pages")
    for flags, count in store.count_left_out_by_flags().most_common(5):
        cost = "; ".join(FLAG_COSTS[name] for name in flags)
        settings = ", ".join(f"link.{name}: keep" for name in flags)
        lines.append(f"  {settings} in params.yaml gives up to {count}: {cost}")
    return "\n".join(lines)
