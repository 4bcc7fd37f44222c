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
from mondrian.core.fields import concerns
from mondrian.core.parallel import batches, spread
from mondrian.core.params import Image, Link
from mondrian.critique.parser import Recovered, recover
from mondrian.critique.rejection import Reason, Rejected
from mondrian.critique.schema import canonical
from mondrian.data.critique_lookup import Folders, stored_text
from mondrian.data.dataset_filters import judge, pictures
from mondrian.data.jobs import Job, Review
from mondrian.data.link_store import Examined, Ledger
from mondrian.data.manifest import write_manifest
from mondrian.data.photo_index import Album
from mondrian.data.photo_scan import look_all
from mondrian.data.quality_flags import COSTS, FLAGS, of_one, words_hash
from mondrian.data.review_filter import outdated, provenance, reviewed, unreviewed
from mondrian.data.sources import open_source

MANIFEST = "training_data_manifest.json"
_BATCH, _ALONE = 250, 4  # jobs examined at a time, and batches that are not worth a process


@dataclass(frozen=True)
class Desk:
    """What the examination of one job needs."""

    advisor: str
    folders: Folders
    params: Link

    @cached_property
    def album(self) -> Album:
        """The photographs, listed once a process."""
        return Album(self.folders.source, self.params.thumbnails == "use")


def link(source: Path, desk: Desk, image: Image, cache: Path, output_dir: Path) -> dict[str, Any]:
    """Account for every finished job of the advisor; returns the counts.

    source      a database or list, as source.locate gives it
    cache       folder that remembers photographs from run to run
    output_dir  gets training_data_manifest.json

    Raises DataError where the source cannot be used, knows no such advisor, or yields no pair.
    """
    _ = desk.album  # no photographs, no work
    try:
        return _link(source, desk, image, cache, output_dir / MANIFEST)
    except sqlite3.Error as error:  # of the ledger; source and cache name their own
        raise DataError(f"{gettempdir()}: {error}; make room there, or set TMPDIR") from None


def _link(source: Path, desk: Desk, image: Image, cache: Path, manifest: Path) -> dict[str, Any]:
    with Ledger() as ledger:
        rows, finished = _examine(source, desk, ledger)
        ledger.enter_photos(look_all(ledger.paths(), cache))
        ledger.enter_pictures(pictures(ledger.thumbnails(), image))
        flags = judge(ledger, desk.params)
        counts = _count(ledger, desk.advisor, rows, flags)
        assert counts["finished"] == finished, f"{counts} of {finished} finished jobs"
        if not counts["linked"]:
            raise DataError(_nothing_left(source, desk.advisor, rows, counts, ledger))
        lists = {
            "records": ledger.records(left_out=False),
            "left_out": ledger.records(left_out=True),
            "rejected": ledger.refusals(),
        }
        write_manifest(manifest, desk.advisor, counts, lists)
    return counts


def summary(advisor: str, counts: dict[str, Any]) -> str:
    """What a person wants to know, in a few lines."""
    out = sum(counts["rejected"].values())
    lines = [
        f"link {advisor}: {counts['finished']} finished jobs → {counts['linked']} pairs "
        f"of {counts['photos']} photos; {out} left out"
    ]
    for start in range(0, len(counts["rejected"]), 6):
        some = list(counts["rejected"].items())[start : start + 6]
        lines.append("  " + " · ".join(f"{reason} {count}" for reason, count in some))
    if counts["reviewed"]:
        told = " · ".join(f"{verdict} {count}" for verdict, count in counts["reviewed"].items())
        lines.append(f"  reviewed by a person, of the pairs: {told}")
    if Reason.UNREVIEWED in counts["rejected"]:
        lines.append("  unreviewed no longer is what a person accepts or corrects on its page")
    if suspect := [name for name in FLAGS if name in counts["rejected"]]:
        lines.append(f"  link.NAME: keep in params.yaml would take {', '.join(suspect)}")
    return "\n".join(lines)


def _examine(source: Path, desk: Desk, ledger: Ledger) -> tuple[dict[str, int], int]:
    """Enter every finished job; returns the rows for each value of the advisor field, and how many
    were finished.
    """
    entered = 0
    with open_source(source) as jobs, tqdm(desc="jobs", unit="job", leave=False) as bar:
        rows = jobs.by_advisor()
        bar.total = _concerned(rows, desk.advisor)  # at most: not all of them are finished
        some = batches(jobs.finished(desk.advisor), _BATCH)
        for examined in spread(_examine_some, replace(desk), some, _ALONE):
            ledger.enter(examined)
            entered += len(examined)
            bar.update(len(examined))
    return rows, entered


def _examine_some(desk: Desk, jobs: list[Job]) -> list[Examined]:
    return [_examine_one(desk, job) for job in jobs]


def _examine_one(desk: Desk, job: Job) -> Examined:
    review = job.review if reviewed(job.review, desk.params.served) else None
    if job.kind and review is None:  # whatever the other settings say
        return _refused(job, unreviewed(job.review, job.model_used, desk.params.served))
    said = _said(desk, job, review)
    if isinstance(said, Rejected):
        return _refused(job, said)
    place, found, review = said
    try:
        path, how = desk.album.find(job.filename)
    except PhotoError as error:
        return _refused(job, Rejected(Reason(error.reason), str(error)))
    flags = of_one(job, found, desk.params.overall_tolerance)
    words = words_hash(found.critique)
    record = {
        "job_id": job.id,
        "critique": json.loads(canonical(found.critique)),
        "words": words,
        "text_from": place,
        "form": found.form,
        "repairs": found.repairs,
        "created": job.created(),
        "mode": job.mode,
        "model": job.model,
        "review": review and provenance(review, job.model_used, job.adapter_version),
    }
    line = _sound(json.dumps(record, ensure_ascii=False))
    return Examined(
        job.when, _sound(job.id), "", "", str(path), how, words, " ".join(flags),
        review.verdict if review else "", line,
    )  # fmt: skip


def _said(
    desk: Desk, job: Job, review: Review | None
) -> tuple[str, Recovered, Review | None] | Rejected:
    """Where the critique is stored, what it says, and the review, where that is of this text."""
    place, found = _stored(desk, job)
    now = "" if isinstance(found, Rejected) else canonical(found.critique)
    if review and now != review.original:
        if job.kind:
            return outdated(job.model_used)
        review = None
    if review and review.critique:
        place, found = "feedback", recover(review.critique, desk.advisor, job.prompts())
    return found if isinstance(found, Rejected) else (place, found, review)


def _stored(desk: Desk, job: Job) -> tuple[str, Recovered | Rejected]:
    stored = stored_text(job, desk.advisor, desk.folders)
    if isinstance(stored, Rejected):
        return "", stored
    place, text = stored
    return place, recover(text, desk.advisor, job.prompts())


def _refused(job: Job, why: Rejected) -> Examined:
    return Examined(job.when, _sound(job.id), str(why.reason), _sound(why.detail))


def _sound(text: str) -> str:
    """Without half an emoji, which no file could hold."""
    return text.encode("utf-8", "replace").decode()


def _count(
    ledger: Ledger, advisor: str, rows: dict[str, int], flags: Counter[str]
) -> dict[str, Any]:
    """What metrics/<advisor>/link.json holds."""
    kept, rejected = ledger.kept(), ledger.reasons()
    return {
        "jobs": _concerned(rows, advisor),
        "finished": kept["linked"] + sum(rejected.values()),
        "linked": kept["linked"],
        "photos": kept["photos"],
        "rejected": rejected,
        "suspicions": dict(sorted(flags.items())),
        "forms": kept["forms"],
        "repairs": kept["repairs"],
        "found": kept["found"],
        "reviewed": kept["reviewed"],
    }


def _concerned(rows: dict[str, int], advisor: str) -> int:
    return sum(count for field, count in rows.items() if concerns(field, advisor))


def _nothing_left(
    source: Path, advisor: str, rows: dict[str, int], counts: dict[str, Any], ledger: Ledger
) -> str:
    if not counts["finished"] or set(counts["rejected"]) == {Reason.ADVISOR_ABSENT}:
        named = {part.strip() for field in rows for part in field.split(",")} - {"", "all", advisor}
        has = ", ".join(sorted(named)[:10]) or "none"
        return f"{source} has no finished job of advisor {advisor!r}; its other advisors are {has}"
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
    waiting = counts["rejected"].get(Reason.UNREVIEWED, 0)
    lines = [
        f"{source}: none of {counts['finished']} finished jobs of {advisor!r} gives a pair "
        f"({reasons})"
    ]
    if waiting:
        lines.append(f"  {waiting} were served here: accept or correct them on their pages")
    for flags, count in ledger.left_out_for().most_common(5):
        cost = "; ".join(COSTS[name] for name in flags)
        switches = ", ".join(f"link.{name}: keep" for name in flags)
        lines.append(f"  {switches} in params.yaml gives up to {count}: {cost}")
    return "\n".join(lines)
