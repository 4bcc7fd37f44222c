"""The history of critiques: filters and pages as SQL. The two jobs of a pair are one entry.

A critique with an arm chosen at random is blind until it is rated; in a job of several advisors,
until each of them is. A pair, which has both arms, is blind until it has a vote for each advisor or
both critiques are rated. No filter by arm matches a blind entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    and_,
    case,
    exists,
    func,
    or_,
    select,
)

from mondrian.storage.job_reader import JobRow, read_rows
from mondrian.storage.tables import feedback, jobs, preferences

HISTORY_KINDS = ("upload", "direct")
_SEARCHED_COLUMNS = ("filename", "note", "analysis_markdown")


@dataclass(frozen=True)
class SearchWord:
    text: str
    advisors: Sequence[str]  # that have it in their names


@dataclass(frozen=True)
class HistoryFilter:
    """Conditions on an entry; an empty text, or None, is no condition.

    words         each occurs in the photo's name, a note, the critique or the advisor's name
    arm           base or fine_tuned
    since, until  ISO times in UTC; `until` is exclusive
    """

    words: Sequence[SearchWord] = ()
    advisor: str = ""
    arm: str = ""
    since: str = ""
    until: str = ""
    min_score: float | None = None
    max_score: float | None = None


@dataclass(frozen=True)
class HistoryPage:
    entries: list[list[JobRow]]  # the job, or the two jobs of a pair
    blind_ids: set[str]  # jobs with an arm that must not be shown
    total: int  # entries on all pages


def load_history(engine: Engine, conditions: HistoryFilter, offset: int, limit: int) -> HistoryPage:
    """Return the entries that meet the conditions, newest first."""
    condition = _entry_condition(conditions)
    order = (func.coalesce(jobs.c.queued_at, 0).desc(), jobs.c.id)
    page = select(jobs.c.id).where(condition).order_by(*order).offset(offset).limit(limit)
    with engine.execution_options(reads=True).begin() as connection:
        total = connection.execute(select(func.count()).select_from(jobs).where(condition))
        ids = list(connection.execute(page).scalars())
        return HistoryPage(*_load_entries(connection, ids), int(total.scalar_one()))


def load_entries(engine: Engine, ids: Sequence[str]) -> HistoryPage:
    """Return the entries of these jobs, without jobs that were deleted."""
    with engine.execution_options(reads=True).begin() as connection:
        entries, blind_ids = _load_entries(connection, ids)
    return HistoryPage(entries, blind_ids, len(entries))


def _load_entries(
    connection: Connection, ids: Sequence[str]
) -> tuple[list[list[JobRow]], set[str]]:
    """Return entries and blind ids. The order of a pair, by id, says nothing about the arms."""
    ids = _select_first_ids(connection, ids)
    is_second = (jobs.c.kind == "upload") & jobs.c.pair_of.in_(ids)
    query = select(jobs).where(or_(jobs.c.id.in_(ids), is_second))
    rows = {row["id"]: row for row in read_rows(connection.execute(query))}
    blind = select(jobs.c.id).where(jobs.c.id.in_(ids), _is_blind())
    blind_ids = set(connection.execute(blind).scalars())
    seconds = {row["pair_of"]: row for row in rows.values() if row["id"] not in ids}
    entries = []
    for id in ids:
        if id not in rows:  # deleted meanwhile
            continue
        entry = [rows[id], seconds[id]] if id in seconds else [rows[id]]
        entries.append(sorted(entry, key=lambda row: str(row["id"])))
        if id in blind_ids:
            blind_ids |= {row["id"] for row in entry}
    return entries, blind_ids


def _select_first_ids(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Return ids with the first job of a pair instead of its second one, each once."""
    first = jobs.alias()
    query = select(jobs.c.id, first.c.id).join(first, first.c.id == jobs.c.pair_of)
    query = query.where(jobs.c.id.in_(ids), jobs.c.kind == "upload")
    first_ids = {second: first for second, first in connection.execute(query)}
    return list(dict.fromkeys(first_ids.get(id, id) for id in ids))


def _entry_condition(conditions: HistoryFilter) -> ColumnElement[bool]:
    """Return the condition on the first job of an entry."""
    first = jobs.alias()
    has_first = exists().where(first.c.id == jobs.c.pair_of)
    parts = [jobs.c.kind.in_(HISTORY_KINDS), or_(jobs.c.pair_of.is_(None), ~has_first)]
    if conditions.advisor:
        parts.append(_has_advisor(jobs, conditions.advisor))
    if conditions.since:
        parts.append(jobs.c.created_at >= conditions.since)
    if conditions.until:
        parts.append(jobs.c.created_at < conditions.until)
    if conditions.arm:
        arm = func.replace(jobs.c.model_used, "ab_test_", "")
        parts += [~_is_blind(), or_(arm == conditions.arm, _has_second())]
    parts += [_any_job(_word_condition(word)) for word in conditions.words]
    if (conditions.min_score, conditions.max_score) != (None, None):
        low = 0 if conditions.min_score is None else conditions.min_score
        high = 10 if conditions.max_score is None else conditions.max_score
        parts.append(_any_job(lambda table: table.c.score.between(low, high)))
    return and_(*parts)


JobCondition = Callable[[FromClause], ColumnElement[bool]]


def _any_job(condition: JobCondition) -> ColumnElement[bool]:
    """Return that the condition holds for the job or for the second job of its pair."""
    return or_(condition(jobs), _has_second(condition))


def _has_second(condition: JobCondition | None = None) -> ColumnElement[bool]:
    second = jobs.alias()
    query = exists().where(second.c.pair_of == jobs.c.id, second.c.kind == "upload")
    return query.where(condition(second)) if condition else query


def _word_condition(word: SearchWord) -> JobCondition:
    def condition(table: FromClause) -> ColumnElement[bool]:
        texts = [func.lower(table.c[name]) for name in _SEARCHED_COLUMNS]
        matches = [text.contains(word.text.lower(), autoescape=True) for text in texts]
        return or_(*matches, *(_has_advisor(table, advisor) for advisor in word.advisors))

    return condition


def _has_advisor(table: FromClause, advisor: str) -> ColumnElement[bool]:
    padded = "," + func.coalesce(table.c.advisor, "") + ","  # a job may have several
    return padded.contains(f",{advisor},", autoescape=True)


def _is_blind() -> ColumnElement[bool]:
    """Return that the arms of an entry, given by its first job, must not be shown."""
    is_rated = _is_rated(jobs)
    second_unrated = _has_second(lambda table: ~_is_rated(table))
    has_votes = _count_votes() >= _count_advisors(jobs)
    is_random = func.coalesce(jobs.c.model_used, "").startswith("ab_test", autoescape=True)
    return case(
        (_has_second(), and_(or_(~is_rated, second_unrated), ~has_votes)),
        else_=and_(is_random, ~is_rated),
    )


def _is_rated(table: FromClause) -> ColumnElement[bool]:
    """Return that the critique of each advisor in a job has thumbs or a verdict."""
    newer = feedback.alias()
    is_newest = ~exists().where(
        newer.c.job == feedback.c.job,
        newer.c.advisor == feedback.c.advisor,
        newer.c.number > feedback.c.number,
    )
    has_rating = or_(func.coalesce(feedback.c.thumbs, 0) != 0, feedback.c.verdict.is_not(None))
    query = select(func.count(feedback.c.advisor.distinct()))
    query = query.where(feedback.c.job == table.c.id, has_rating, is_newest)
    num_advisors = _count_advisors(table)
    # thumbs in the job's row may be older than the feedback table
    has_thumbs = and_(num_advisors == 1, func.coalesce(table.c.thumbs, 0) != 0)
    return or_(has_thumbs, query.correlate(table).scalar_subquery() >= num_advisors)


def _count_votes() -> ColumnElement[int]:
    """Return the number of advisors with a vote on an entry that was not withdrawn."""
    newer = preferences.alias()
    is_newest = ~exists().where(
        newer.c.left_job == preferences.c.left_job,
        newer.c.right_job == preferences.c.right_job,
        newer.c.advisor == preferences.c.advisor,
        newer.c.number > preferences.c.number,
    )
    is_of_entry = or_(preferences.c.left_job == jobs.c.id, preferences.c.right_job == jobs.c.id)
    query = select(func.count(preferences.c.advisor.distinct()))
    query = query.where(is_of_entry, preferences.c.choice.is_not(None), is_newest)
    return query.correlate(jobs).scalar_subquery()


def _count_advisors(table: FromClause) -> ColumnElement[int]:
    names = func.coalesce(table.c.advisor, "")
    return func.length(names) - func.length(func.replace(names, ",", "")) + 1
