"""Stage link: each finished job becomes a training pair, or is rejected with a reason code.

A job's text is examined in parallel processes, and its photo once for all jobs that name it. The
filters that compare jobs come last (mondrian/data/quality/quality_flags.py).
"""

import json
import sqlite3
import textwrap
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.fields import UNKNOWN_TIME
from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.core.params import ImageParams
from mondrian.core.terminal import LINE_WIDTH, progress_bar
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import read_critique
from mondrian.data.job_counts import JobCounts
from mondrian.data.jobs import PHOTO_KEYS, Job, Review
from mondrian.data.link_context import LinkContext
from mondrian.data.link_store import LinkStore, open_link_store
from mondrian.data.link_tables import ExaminedJob
from mondrian.data.manifest import write_manifest
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.data.photos.photo_conflicts import find_conflicts
from mondrian.data.photos.photo_index import CERTAIN_KINDS, PhotoMatch
from mondrian.data.photos.photo_scan import scan_photos
from mondrian.data.quality import quality_flags
from mondrian.data.quality.other_advisors import add_other_texts
from mondrian.data.quality.switches import SwitchCounts, allowing_values, format_switches
from mondrian.data.sources import open_source

MANIFEST_FILE = "training_data_manifest.json"
Counts = dict[str, Any]
_BATCH_SIZE = 250  # jobs
_MAX_SERIAL = 4  # batches that are examined without starting processes


class NoPairsError(DataError):
    """No finished job gives a pair; the manifest, which is written, says why."""

    def __init__(self, problem: str, counts: Counts) -> None:
        super().__init__(problem)
        self.counts = counts


class _CritiqueText(NamedTuple):
    place: str  # where the text was found
    parsed: ParsedCritique
    review: Review | None  # of this text


def link(
    source: Path,
    context: LinkContext,
    image_params: ImageParams,
    cache_dir: Path,
    output_dir: Path,
) -> Counts:
    """Write the manifest, which accounts for every finished job of the advisor; return the counts.

    Raises DataError if the source is invalid, and NoPairsError after writing a manifest without a
    pair.
    """
    _ = context.photo_index  # raises if there is no photo folder
    try:
        with open_link_store() as store:
            job_counts = _examine_jobs(source, context, store)
            store.add_photos(scan_photos(store.photo_paths(), cache_dir))
            groups = group_near_duplicates(
                store.fingerprints(), image_params, cache_dir, context.advisor
            )
            store.set_photo_groups(groups)
            add_other_texts(source, context, job_counts, store)
            flags = quality_flags.apply_dataset_filters(store, context.params)
            counts = _build_counts(store, context.advisor, job_counts, flags)
            sections = {
                "records": store.records(left_out=False),
                "left_out": store.records(left_out=True),
                "rejected": store.rejected_jobs(),
            }
            write_manifest(output_dir / MANIFEST_FILE, context.advisor, counts, sections)
            if not counts["linked"]:
                problem = _explain_no_pairs(source, context, job_counts, counts, store)
                raise NoPairsError(problem, counts)
        return counts
    except sqlite3.Error as error:  # of the store; source and cache convert their own errors
        raise DataError(f"{gettempdir()}: {error}; make room there, or set TMPDIR") from None


def format_link_summary(advisor: str, counts: Counts, switches: SwitchCounts | None = None) -> str:
    rejected = counts["rejected"]
    lines = [
        f"link {advisor}: {counts['finished']} finished jobs → {counts['linked']} pairs "
        f"from {counts['photos']} photos; {sum(rejected.values())} rejected"
    ]
    reasons = " ".join(f"{reason}\xa0{count}\xa0·" for reason, count in rejected.items())
    wrapped = textwrap.wrap(reasons, LINE_WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines += [line.replace("\xa0", " ").removesuffix(" ·") for line in wrapped]
    if counts["reviewed"]:
        verdicts = " · ".join(f"{name} {count}" for name, count in counts["reviewed"].items())
        lines.append(f"  pairs reviewed by a person: {verdicts}")
    if RejectionReason.UNREVIEWED in rejected:
        lines.append("  unreviewed critiques: accept or correct them on their pages to use them")
    if text_only := counts.get("text_only", 0):
        lines.append(f"  text only, scores neither learned nor judged: {text_only} pairs")
    if switches:
        lines += format_switches(switches)
    return "\n".join(lines)


def _examine_jobs(source: Path, context: LinkContext, store: LinkStore) -> JobCounts:
    """Store every finished job; return the counts of all jobs."""
    with open_source(source) as jobs, progress_bar(desc="jobs", unit="job") as bar:
        job_counts = jobs.count_jobs()
        bar.total = job_counts.count(context.advisor)  # finished or not
        batches = split_into_batches(jobs.iter_finished(context.advisor), _BATCH_SIZE)
        for examined in map_in_processes(_examine_batch, replace(context), batches, _MAX_SERIAL):
            store.add_jobs(examined)
            bar.update(len(examined))
        doubtful = store.doubtful_matches()
        filenames = jobs.iter_filenames() if doubtful else ()
        store.reject_ambiguous(find_conflicts(context.photo_index, filenames, doubtful))
    return job_counts


def _examine_batch(context: LinkContext, jobs: list[Job]) -> list[ExaminedJob]:
    examined = []
    for job in jobs:
        outcome = _examine_job(context, job)
        if isinstance(outcome, Rejection):
            reason, detail = str(outcome.reason), outcome.detail
            outcome = ExaminedJob(job.timestamp, job.id, reason, detail, job.filename)
        # Lone surrogates (half an emoji) cannot be written as UTF-8.
        texts = (text.encode("utf-8", "replace").decode() for text in outcome[1:])
        examined.append(ExaminedJob(job.timestamp, *texts))
    return examined


def _find_photo(context: LinkContext, job: Job) -> PhotoMatch:
    match = context.photo_index.find(job.filename)
    if job.kind and match.kind not in CERTAIN_KINDS:  # served here, and its upload was deleted
        detail = f"{job.filename!r:.200} is gone; {match.path} may be another photo"
        raise PhotoError(RejectionReason.IMAGE_MISSING, detail)
    return match


def _examine_job(context: LinkContext, job: Job) -> ExaminedJob | Rejection:
    outcome = _read_critique(context, job)
    if isinstance(outcome, Rejection):
        return outcome
    if job.keys and not job.filename:
        detail = f"no {' or '.join(PHOTO_KEYS)} among its keys: {job.keys}"
        return Rejection(RejectionReason.IMAGE_MISSING, detail)
    parsed = outcome.parsed
    flags = quality_flags.find_record_flags(job, parsed, context.params.overall_tolerance)
    facts = {
        "words": quality_flags.words_hash(parsed.critique),
        "scores": " ".join(map(str, parsed.critique.scores())) if parsed.scored else "",
        "flags": " ".join(flags),
    }
    try:
        match = _find_photo(context, job)
    except PhotoError as error:  # its scores are counted all the same
        reason, detail = error.reason, str(error)
        return ExaminedJob(job.timestamp, job.id, reason, detail, job.filename, **facts)
    record = _build_record(job, outcome, facts["words"])
    return ExaminedJob(
        job.timestamp,
        job.id,
        path=str(match.path),
        match_kind=match.kind,
        assumed_source=match.assumed_source or "",
        review=outcome.review.verdict if outcome.review else "",
        record=json.dumps(record, ensure_ascii=False),
        **facts,
    )


def _build_record(job: Job, text: _CritiqueText, words: str) -> dict[str, Any]:
    """Return the manifest's record of a job, without its photo and its outcome."""
    is_dated = job.timestamp != UNKNOWN_TIME
    return {
        "job_id": job.id,
        "critique": json.loads(serialize_critique(text.parsed.critique)),
        "words": words,
        "text_from": text.place,
        "form": text.parsed.source_format,
        "repairs": text.parsed.repairs,
        "extra_scores": text.parsed.extra_scores,
        "notes": job.notes,
        "captured": job.capture_time(),
        "created": datetime.fromtimestamp(job.timestamp, UTC).isoformat() if is_dated else "",
        "mode": job.mode,
        "model": job.model,
        "review": _describe_review(job, text.review) if text.review else None,
    }


def _describe_review(job: Job, review: Review) -> dict[str, Any]:
    """Return the manifest's ReviewProvenance."""
    return {
        "verdict": review.verdict,
        "served_by": job.model_used,
        "adapter_version": job.adapter_version,
        "who": review.who,
        "reviewed_at": review.reviewed_at,
    }


def _read_critique(context: LinkContext, job: Job) -> _CritiqueText | Rejection:
    """Return the critique, with its review if it is about this text."""
    review = job.review if quality_flags.is_review_trainable(job.review, context.params) else None
    if job.kind and review is None:  # no other setting allows it
        return quality_flags.reject_unreviewed(job, context.params)
    outcome = read_critique(job, context.advisor, context.folders)
    source, parsed = ("", outcome) if isinstance(outcome, Rejection) else outcome
    canonical = ""  # a text without scores cannot be reviewed either
    if isinstance(parsed, ParsedCritique) and parsed.scored:
        canonical = serialize_critique(parsed.critique)
    if review and canonical != review.original:
        if job.kind:
            detail = f"served by {job.model_used or 'the base'}; its text changed after the review"
            return Rejection(RejectionReason.UNREVIEWED, detail)
        review = None
    if review and review.critique:
        source = "feedback"
        parsed = parse_critique(review.critique, context.advisor, job.prompts())
    return parsed if isinstance(parsed, Rejection) else _CritiqueText(source, parsed, review)


def _build_counts(
    store: LinkStore, advisor: str, job_counts: JobCounts, flags: Counter[str]
) -> Counts:
    """Return the content of metrics/<advisor>/link.json."""
    finished, linked, photos = store.count_jobs()
    origins, rejected = store.count_origins(), store.count_reasons()
    assert finished == linked + sum(rejected.values()), f"{linked}, {rejected} of {finished} jobs"
    return {
        "jobs": job_counts.count(advisor),
        "finished": finished,
        "linked": linked,
        "photos": photos,
        "rejected": rejected,
        "suspicions": dict(sorted(flags.items())),
        **origins,
    }


def _explain_no_pairs(
    source: Path, context: LinkContext, job_counts: JobCounts, counts: Counts, store: LinkStore
) -> str:
    advisor, rejected = context.advisor, counts["rejected"]
    if not counts["finished"] or set(rejected) == {RejectionReason.ADVISOR_ABSENT}:
        return f"{source} has {job_counts.explain_none_finished(advisor)}"
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    lines = [
        f"{source}: none of {counts['finished']} finished jobs of {advisor!r} gives a pair "
        f"({reasons})"
    ]
    lines += [f"  {reason}: job {example}" for reason, example in store.first_rejections(3)]
    if unreviewed := rejected.get(RejectionReason.UNREVIEWED):
        lines.append(f"  {unreviewed} were served here: accept or correct them on their pages")
    combinations: Counter[tuple[str, ...]] = Counter()
    for flags, count in store.count_left_out_by_flags().items():
        combinations[tuple(quality_flags.find_excluding_flags(flags, context.params))] += count
    for flags, count in combinations.most_common(5):
        cost = "; ".join(quality_flags.FLAG_COSTS[name] for name in flags)
        settings = ", ".join(f"link.{name}: {allowing_values(name)[-1]}" for name in flags)
        lines.append(f"  {settings} in params.yaml gives up to {count}: {cost}")
    return "\n".join(lines)
