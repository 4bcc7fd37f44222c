"""Counts of the jobs in a source by advisor and status, for totals and for error messages."""

from collections import Counter
from collections.abc import Iterable

from mondrian.core.errors import join_first
from mondrian.core.fields import is_for_advisor, split_advisors

FINISHED_STATUSES = ("done", "completed")


class JobCounts:
    def __init__(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """counts   `advisor` field, status and number of jobs"""
        self._counts: Counter[tuple[str, str]] = Counter()
        for field, status, count in counts:
            self._counts[field, status.strip().lower()] += count

    def count(self, advisor: str) -> int:
        return sum(self._count_by_status(advisor).values())

    def count_finished(self, advisor: str) -> int:
        by_status = self._count_by_status(advisor)
        return sum(by_status[status] for status in FINISHED_STATUSES)

    def count_finished_by_advisor(self) -> dict[str, int]:
        """Return the finished jobs of each advisor who has any; `all` counts for each of them."""
        totals: Counter[str] = Counter()
        for (field, status), count in self._counts.items():
            finished = count if status in FINISHED_STATUSES else 0
            totals.update(dict.fromkeys(split_advisors(field), finished))
        for_all = totals.pop("all", 0)
        del totals[""]
        return {name: total + for_all for name, total in sorted(totals.items()) if total + for_all}

    def explain_none_finished(self, advisor: str | None) -> str:
        """Return why an advisor, or any, has no finished job: the statuses, or other advisors."""
        explanation = f"no finished job of advisor {advisor!r}" if advisor else "no finished job"
        if not self._counts:
            return f"{explanation}: it has no rows"
        by_status = self._count_by_status(advisor)
        if by_status and not by_status.keys() & set(FINISHED_STATUSES):
            statuses = [f"{name!r:.40} {count}" for name, count in by_status.most_common()]
            finished = " or ".join(FINISHED_STATUSES)
            return f"{explanation}: finished is {finished}, its jobs are {join_first(statuses, 8)}"
        others = [f"{name!r:.40} {n}" for name, n in self.count_finished_by_advisor().items()]
        return f"{explanation}; finished jobs of others: {join_first(others, 8) or 'none'}"

    def _count_by_status(self, advisor: str | None) -> Counter[str]:
        by_status: Counter[str] = Counter()
        for (field, status), count in self._counts.items():
            if advisor is None or is_for_advisor(field, advisor):
                by_status[status] += count
        return by_status
