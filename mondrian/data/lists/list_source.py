"""The jobs of a list: JSON lines, a JSON list or a table, each job with an id of its own."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mondrian.core.fields import is_for_advisor
from mondrian.data.job_counts import FINISHED_STATUSES, JobCounts
from mondrian.data.jobs import Job, UniqueIds
from mondrian.data.lists.csv_list import read_table
from mondrian.data.lists.json_list import read_json_lines, read_json_list
from mondrian.data.lists.list_format import ListFormat, ListLayout, identify_list
from mondrian.data.lists.text_encoding import TextEncoding

_READERS: dict[ListLayout, Callable[[Path, TextEncoding], Iterator[tuple[str, Job]]]] = {
    ListLayout.LINES: read_json_lines,
    ListLayout.JSON_LIST: read_json_list,
    ListLayout.TABLE: read_table,
}


class ListJobSource:
    """The jobs of a list, read again for each call; an unreadable entry is a job too."""

    def __init__(self, path: Path) -> None:
        """Raise DataError if the file is not a list."""
        self._path = path
        self._format: ListFormat = identify_list(path)

    def count_jobs(self) -> JobCounts:
        """Count the entries, all of which are finished; entries without an advisor are for all."""
        return JobCounts((job.advisor or "all", FINISHED_STATUSES[0], 1) for job in self._read())

    def iter_filenames(self) -> Iterator[str]:
        """Yield the photos of all entries once, in the order of the file, for all advisors."""
        yield from dict.fromkeys(job.filename for job in self._read())

    def iter_finished(self, advisor: str | None) -> Iterator[Job]:
        """Yield the entries for an advisor, or all entries."""
        for job in self._read():
            if advisor is None or not job.advisor or is_for_advisor(job.advisor, advisor):
                yield job

    def _read(self) -> Iterator[Job]:
        encoding = self._format.encoding
        ids = UniqueIds()
        notes = (encoding.note,) if encoding.note else ()
        for place, job in _READERS[self._format.layout](self._path, encoding):
            job_id = ids.add(job.id, place)
            yield replace(job, id=job_id, notes=notes) if notes or job_id != job.id else job
