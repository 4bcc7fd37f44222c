import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.core.fields import parse_timestamp
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.data import sqlite_source
from mondrian.data.sqlite_source import open_database
from tests.waiting import PATIENCE

MakeDb = Callable[..., Path]


def read_job_ids(path: Path, advisor: str = "ansel") -> list[str]:
    with open_database(path) as source:
        jobs = sorted(source.iter_finished(advisor), key=lambda job: (job.timestamp, job.id))
        return [job.id for job in jobs]


def folder_state(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        name: (
            sha256((folder / name).read_bytes()).hexdigest(),
            (folder / name).stat().st_mtime_ns,
        )
        for name in sorted(os.listdir(folder))
        if (folder / name).is_file()
    }


def test_a_job_is_finished_if_its_status_is_done_or_completed(make_db: MakeDb) -> None:
    states = ["done", "completed", "error", "failed", "queued", "analyzing", "", None, " Done "]
    path = make_db(*({"status": state} for state in states))
    assert read_job_ids(path) == ["job-0", "job-1", "job-8"]


def test_jobs_for_all_or_several_advisors_belong_to_each(make_db: MakeDb) -> None:
    fields = ["ansel", "all", "okeefe, ansel", "okeefe", "ansel2", None]
    path = make_db(*({"advisor": field} for field in fields))
    assert read_job_ids(path) == ["job-0", "job-1", "job-2"]
    with open_database(path) as source:
        assert source.count_jobs().count("okeefe") == 3


def test_jobs_are_ordered_by_their_first_known_time_and_id(make_db: MakeDb) -> None:
    times = ["2026-01-02T00:00:00", "1700000000.5", None, "2025-06-01 10:00:00", "nonsense"]
    path = make_db(*({"created_at": time} for time in times))
    assert read_job_ids(path) == ["job-1", "job-3", "job-0", "job-2", "job-4"]


def test_an_optional_column_may_be_missing(make_db: MakeDb) -> None:
    assert read_job_ids(make_db({}, drop="llm_outputs")) == ["job-0"]


@pytest.mark.parametrize("column", ["id", "filename", "advisor", "status"])
def test_a_missing_required_column_is_named(make_db: MakeDb, column: str) -> None:
    with pytest.raises(DataError, match=f"no column {column};"):
        read_job_ids(make_db(drop=column))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"x" * 5000, "not an SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "damaged"),
    ],
)
def test_a_file_that_is_not_a_database_is_an_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "mondrian.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_job_ids(path)


def test_an_error_about_a_missing_table_names_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (id)")
    with pytest.raises(DataError, match="no table jobs .it has recipes"):
        read_job_ids(path)


def test_a_locked_database_is_one_clear_line(
    make_db: MakeDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "_LOCK_SECONDS", 0.1)
    path = make_db({})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match="locked by another process"):
            read_job_ids(path)


def test_rows_in_the_log_are_read_and_no_file_changes(make_db: MakeDb) -> None:
    path = make_db({})
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        insert = "INSERT INTO jobs (id, advisor, status) VALUES (?, ?, ?)"
        writer.execute(insert, ("late", "ansel", "done"))
        writer.commit()
        before = folder_state(path.parent)
        assert f"{path.name}-wal" in before
        assert read_job_ids(path) == ["job-0", "late"]
        assert folder_state(path.parent) == before
    before = folder_state(path.parent)  # closed: still in WAL mode, without a log
    assert list(before) == [path.name]
    assert read_job_ids(path) == ["job-0", "late"]
    assert folder_state(path.parent) == before


def test_the_log_of_a_linked_database_is_read(make_db: MakeDb, tmp_path: Path) -> None:
    path = make_db({})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(path)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO jobs (id, advisor, status) VALUES ('late', 'ansel', 'done')")
        writer.commit()
        assert read_job_ids(tmp_path / "elsewhere" / "link.db") == ["job-0", "late"]


def test_the_open_transaction_of_a_crash_is_rolled_back_in_a_copy(make_db: MakeDb) -> None:
    path = make_db(*({"analysis_markdown": "x" * 3000} for _ in range(200)))
    crash = (
        "import os, sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA cache_size = 5')\n"
        "c.execute(\"UPDATE jobs SET status = 'failed'\")\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", crash, path], timeout=PATIENCE)
    assert path.with_name(path.name + "-journal").exists()
    before = folder_state(path.parent)
    assert len(read_job_ids(path)) == 200
    assert folder_state(path.parent) == before


def test_a_concurrent_writer_does_not_change_what_is_read(make_db: MakeDb) -> None:
    path = make_db({}, {}, {})
    with open_database(path) as source:
        jobs = source.iter_finished("ansel")
        first = next(jobs).id
        with closing(sqlite3.connect(path, timeout=0.1)) as writer:
            writer.execute("DELETE FROM jobs WHERE id = 'job-1'")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                writer.commit()
        assert [first, *(job.id for job in jobs)] == ["job-0", "job-1", "job-2"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_busy_database_is_read_at_one_moment(make_db: MakeDb, mode: str) -> None:
    path = make_db(*({"analysis_markdown": "x" * 2000} for _ in range(300)))
    writer = (  # every transaction renames all jobs at once
        "import sqlite3, sys, time\nc = sqlite3.connect(sys.argv[1], timeout=30)\n"
        "c.execute(f'PRAGMA journal_mode = {sys.argv[2]}')\nend = time.time() + 60\n"
        "n = 0\nprint('go', flush=True)\nwhile time.time() < end:\n    n += 1\n"
        "    c.execute('UPDATE jobs SET filename = ?', (f'{n}.jpg',))\n    c.commit()"
    )
    command = [sys.executable, "-c", writer, str(path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            names_read = []
            for _ in range(20):
                with open_database(path) as source:
                    names = [job.filename for job in source.iter_finished("ansel")]
                assert len(names) == 300
                assert len(set(names)) == 1
                names_read.append(names[0])
            assert len(set(names_read)) > 1
        finally:
            process.kill()


def test_text_that_is_not_utf8_is_read_with_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "mondrian.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (id, filename, advisor, status, analysis_markdown)")
        insert = "INSERT INTO jobs VALUES ('a', 'b', 'ansel', 'done', CAST(x'ff41' AS TEXT))"
        connection.execute(insert)
        connection.commit()
    with open_database(path) as source:
        assert [job.analysis_markdown for job in source.iter_finished("ansel")] == ["\ufffdA"]


def test_a_text_over_the_length_limit_is_reported_with_its_length(make_db: MakeDb) -> None:
    path = make_db({"analysis_markdown": "x" * (MAX_CHARACTERS + 1)}, {"filename": "b.jpg"})
    with open_database(path) as source:
        long, other = source.iter_finished("ansel")
    assert (long.analysis_markdown, other.too_long_message) == ("", "")
    assert long.too_long_message == "analysis_markdown has 1,000,001 characters; at most 1,000,000"


def test_a_view_without_rowids_and_computed_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mondrian.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE t (id PRIMARY KEY, f, st, am, filename AS (f), status AS (st),
                            analysis_markdown AS (am) STORED, advisor) WITHOUT ROWID;
            CREATE VIEW jobs AS SELECT * FROM t;
            INSERT INTO t (id, f, st, am, advisor) VALUES ('1', 'a.jpg', 'done', 'text', 'ansel');
        """)
    with open_database(path) as source:
        (job,) = source.iter_finished("ansel")
    assert (job.filename, job.analysis_markdown) == ("a.jpg", "text")


def test_a_database_in_wal_mode_is_copied_even_if_one_version_byte_is_wrong(
    make_db: MakeDb,
) -> None:
    path = make_db({})
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
    content = bytearray(path.read_bytes())
    assert content[18:20] == b"\x02\x02"
    content[18] = 1
    path.write_bytes(content)
    before = folder_state(path.parent)
    with contextlib.suppress(DataError):
        read_job_ids(path)
    assert folder_state(path.parent) == before


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.binary()))
def test_any_stored_time_is_seconds_or_none(value: object) -> None:
    seconds = parse_timestamp(value)
    assert seconds is None or seconds > 0


@pytest.mark.parametrize("table", ["TABLE jobs", "VIEW jobs"])
def test_rows_without_an_id_of_their_own_are_told_apart_by_their_row(
    tmp_path: Path, table: str
) -> None:
    ids = [7, "7", b"7", None, None, "", "row 4", 7.5, "a"]
    path = tmp_path / "mondrian.db"
    with closing(sqlite3.connect(path)) as connection:
        name = "jobs" if table == "TABLE jobs" else "rows"
        connection.execute(f"CREATE TABLE {name} (id, filename, advisor, status)")
        rows = [(job_id, "a.jpg", "ansel", "done") for job_id in ids]
        connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?)", rows)
        if name == "rows":
            connection.execute("CREATE VIEW jobs AS SELECT * FROM rows")
        connection.commit()
    with open_database(path) as source:
        assert [job.id for job in source.iter_finished("ansel")] == [
            "7",
            "7 (row 2)",
            "7 (row 3)",
            "row 4",
            "row 5",
            "row 6",
            "row 4 (row 7)",
            "7.5",
            "a",
        ]
