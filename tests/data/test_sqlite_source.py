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

MakeDb = Callable[..., Path]


def read(path: Path, advisor: str = "ansel") -> list[str]:
    with open_database(path) as jobs:
        found = sorted(jobs.iter_finished(advisor), key=lambda job: (job.timestamp, job.id))
        return [job.id for job in found]


def folder_state(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        name: (
            sha256((folder / name).read_bytes()).hexdigest(),
            (folder / name).stat().st_mtime_ns,
        )
        for name in sorted(os.listdir(folder))
        if (folder / name).is_file()
    }


def test_finished_is_done_or_completed(make_db: MakeDb) -> None:
    states = ["done", "completed", "error", "failed", "queued", "analyzing", "", None, " Done "]
    path = make_db(*({"status": state} for state in states))
    assert read(path) == ["job-0", "job-1", "job-8"]


def test_jobs_for_all_and_for_several_advisors_concern_each(make_db: MakeDb) -> None:
    fields = ["ansel", "all", "okeefe, ansel", "okeefe", "ansel2", None]
    path = make_db(*({"advisor": field} for field in fields))
    assert read(path) == ["job-0", "job-1", "job-2"]
    with open_database(path) as jobs:
        assert jobs.count_by_advisor()["okeefe"] == 1


def test_order_is_by_the_best_time_and_then_by_id(make_db: MakeDb) -> None:
    times = ["2026-01-02T00:00:00", "1700000000.5", None, "2025-06-01 10:00:00", "nonsense"]
    path = make_db(*({"created_at": time} for time in times))
    assert read(path) == ["job-1", "job-3", "job-0", "job-2", "job-4"]


def test_a_missing_optional_column_is_normal(make_db: MakeDb) -> None:
    assert read(make_db({}, drop="llm_outputs")) == ["job-0"]


@pytest.mark.parametrize("column", ["id", "filename", "advisor", "status"])
def test_a_missing_required_column_is_named(make_db: MakeDb, column: str) -> None:
    with pytest.raises(DataError, match=f"no column {column};"):
        read(make_db(drop=column))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"x" * 5000, "not an SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "damaged"),
    ],
)
def test_what_is_no_database_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "mondrian.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(path)


def test_a_database_without_jobs_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (id)")
    with pytest.raises(DataError, match="no table jobs .it has recipes"):
        read(path)


def test_a_locked_database_is_one_clear_line(
    make_db: MakeDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "_LOCK_SECONDS", 0.1)
    path = make_db({})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match="locked by another process"):
            read(path)


def test_rows_in_the_log_are_read_and_nothing_beside_the_database_changes(make_db: MakeDb) -> None:
    path = make_db({})
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        insert = "INSERT INTO jobs (id, advisor, status) VALUES (?, ?, ?)"
        writer.execute(insert, ("late", "ansel", "done"))
        writer.commit()
        before = folder_state(path.parent)
        assert f"{path.name}-wal" in before
        assert read(path) == ["job-0", "late"]
        assert folder_state(path.parent) == before
    before = folder_state(path.parent)  # closed: still in WAL mode, without a log
    assert list(before) == [path.name]
    assert read(path) == ["job-0", "late"]
    assert folder_state(path.parent) == before


def test_a_link_to_a_database_finds_its_log(make_db: MakeDb, tmp_path: Path) -> None:
    path = make_db({})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(path)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO jobs (id, advisor, status) VALUES ('late', 'ansel', 'done')")
        writer.commit()
        assert read(tmp_path / "elsewhere" / "link.db") == ["job-0", "late"]


def test_a_transaction_that_a_crash_left_is_rolled_back_in_a_copy(make_db: MakeDb) -> None:
    path = make_db(*({"analysis_markdown": "x" * 3000} for _ in range(200)))
    crash = (
        "import os, sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA cache_size = 5')\n"
        "c.execute(\"UPDATE jobs SET status = 'failed'\")\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", crash, path], timeout=60)
    assert path.with_name(path.name + "-journal").exists()
    before = folder_state(path.parent)
    assert len(read(path)) == 200
    assert folder_state(path.parent) == before


def test_a_writer_beside_changes_nothing_of_what_is_read(make_db: MakeDb) -> None:
    path = make_db({}, {}, {})
    with open_database(path) as jobs:
        found = jobs.iter_finished("ansel")
        first = next(found).id
        with closing(sqlite3.connect(path, timeout=0.1)) as writer:
            writer.execute("DELETE FROM jobs WHERE id = 'job-1'")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                writer.commit()
        assert [first, *(job.id for job in found)] == ["job-0", "job-1", "job-2"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_database_that_is_written_to_is_read_as_it_was_at_one_moment(
    make_db: MakeDb, mode: str
) -> None:
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
            seen = []
            for _ in range(20):
                with open_database(path) as jobs:
                    names = [job.filename for job in jobs.iter_finished("ansel")]
                assert len(names) == 300
                assert len(set(names)) == 1
                seen.append(names[0])
            assert len(set(seen)) > 1
        finally:
            process.kill()


def test_text_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mondrian.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (id, filename, advisor, status, analysis_markdown)")
        insert = "INSERT INTO jobs VALUES ('a', 'b', 'ansel', 'done', CAST(x'ff41' AS TEXT))"
        connection.execute(insert)
        connection.commit()
    with open_database(path) as jobs:
        assert [job.analysis_markdown for job in jobs.iter_finished("ansel")] == ["\ufffdA"]


def test_a_text_beyond_reading_is_told_by_its_length(make_db: MakeDb) -> None:
    path = make_db({"analysis_markdown": "x" * (MAX_CHARACTERS + 1)}, {"filename": "b.jpg"})
    with open_database(path) as jobs:
        long, other = jobs.iter_finished("ansel")
    assert (long.analysis_markdown, other.too_long_message) == ("", "")
    assert long.too_long_message == "analysis_markdown has 1,000,001 characters; most 1,000,000"


def test_a_view_without_rowids_and_computed_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mondrian.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE t (id PRIMARY KEY, f, st, am, filename AS (f), status AS (st),
                            analysis_markdown AS (am) STORED, advisor) WITHOUT ROWID;
            CREATE VIEW jobs AS SELECT * FROM t;
            INSERT INTO t (id, f, st, am, advisor) VALUES ('1', 'a.jpg', 'done', 'text', 'ansel');
        """)
    with open_database(path) as jobs:
        (job,) = jobs.iter_finished("ansel")
    assert (job.filename, job.analysis_markdown) == ("a.jpg", "text")


def test_a_database_that_is_read_through_a_log_is_copied_whatever_its_first_byte_says(
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
        read(path)
    assert folder_state(path.parent) == before


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.binary()))
def test_any_stored_time_is_seconds_or_nothing(value: object) -> None:
    seconds = parse_timestamp(value)
    assert seconds is None or seconds > 0
