"""Read what other advisors wrote, as evidence of what the linked advisor's photos show.

All their critiques of the same files are read, and a sample of the others, from which the rarity of
words is learned.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from mondrian.core.errors import PhotoError
from mondrian.core.fields import split_advisors
from mondrian.core.files import file_hash
from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders, read_critique
from mondrian.data.job_counts import JobCounts
from mondrian.data.jobs import Job
from mondrian.data.link_context import LinkContext
from mondrian.data.link_store import LinkStore
from mondrian.data.link_tables import OtherText
from mondrian.data.photos.photo_index import PhotoIndex
from mondrian.data.quality.quality_flags import is_made_by_adapter, words_hash
from mondrian.data.sources import open_source

_SAMPLE_SIZE = 1000  # critiques of other photos
_BATCH_SIZE, _MAX_SERIAL = 250, 4


class _PhotoJob(NamedTuple):
    job: Job
    advisor: str
    photo: str
    sha256: str


class KnownPhotos:
    """The linked advisor's photos, by path and by content."""

    def __init__(self, photos: Iterator[tuple[str, str, str]]) -> None:
        """photos  path, sha256 and group of each"""
        self._content = {path: (content, group) for path, content, group in photos}
        self._group_by_sha256 = dict(self._content.values())
        self._sizes = set(map(_file_size, self._content))
        self._hashes: dict[Path, str] = {}

    def identify(self, path: Path) -> tuple[str, str]:
        """Return the group and the sha256 of a known photo; otherwise its size and nothing."""
        if entry := self._content.get(str(path)):
            content, group = entry
            return group, content
        size = _file_size(path)
        if size in self._sizes:
            if path not in self._hashes:
                self._hashes[path] = file_hash(path)
            content = self._hashes[path]
            if content in self._group_by_sha256:
                return self._group_by_sha256[content], content
        return f"{size} bytes", ""


def add_other_texts(
    source: Path, context: LinkContext, job_counts: JobCounts, store: LinkStore
) -> None:
    """Store critiques by all other advisors in the source, not those that were served here."""
    finished = job_counts.count_finished_by_advisor()
    finished.pop(context.advisor, None)
    if not finished:
        return
    photos = KnownPhotos(store.photo_ids())
    step = max(1, sum(finished.values()) // _SAMPLE_SIZE)
    with open_source(source) as jobs:
        answers = _split_by_advisor(jobs.iter_finished(None), context.advisor, list(finished))
        located = _locate(answers, context.photo_index, photos, step)
        batches = split_into_batches(located, _BATCH_SIZE)
        for texts in map_in_processes(_read_texts, context.folders, batches, _MAX_SERIAL):
            store.add_other_texts(texts)


def _file_size(path: Path | str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # removed meanwhile
        return -1


def _split_by_advisor(
    jobs: Iterator[Job], advisor: str, others: list[str]
) -> Iterator[tuple[Job, str]]:
    """Yield each job with each other advisor who may have answered it.

    An entry of a list has one text for all its advisors: it counts once, and not if it is for the
    linked advisor too.
    """
    for job in jobs:
        names = split_advisors(job.advisor)
        if job.text_from and (not job.advisor or not names.isdisjoint((advisor, "all"))):
            continue
        answered = others if "all" in names else sorted(names.intersection(others))
        yield from ((job, name) for name in answered[: 1 if job.text_from else None])


def _locate(
    answers: Iterator[tuple[Job, str]], index: PhotoIndex, photos: KnownPhotos, step: int
) -> Iterator[_PhotoJob]:
    """Yield the answers about known photos, and one of `step` of those about others."""
    for job, advisor in answers:
        if job.kind or is_made_by_adapter(job):
            continue
        try:
            photo, content = photos.identify(index.find(job.filename).path)
        except (PhotoError, OSError):
            continue  # without its file it is no evidence
        if content or crc32(job.id.encode("utf-8", "replace")) % step == 0:
            yield _PhotoJob(job, advisor, photo, content)


def _read_texts(folders: ApplicationFolders, jobs: list[_PhotoJob]) -> list[OtherText]:
    texts = []
    for job, advisor, photo, content in jobs:
        result = read_critique(job, advisor, folders)
        if not isinstance(result, Rejection):
            _, parsed = result
            critique = serialize_critique(parsed.critique).encode("utf-8", "replace").decode()
            texts.append(OtherText(advisor, photo, content, words_hash(parsed.critique), critique))
    return texts
