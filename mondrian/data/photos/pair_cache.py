"""Cache of the pairs of copies that an earlier run found, for each set of photos (scope)."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mondrian.data.photos.photo_cache import open_cache

CACHE_VERSION = 1  # of the comparison; a cache of another version is cleared
CACHE_FILE = "photo_pairs.sqlite"
_SCHEMA = """
    DROP TABLE IF EXISTS pairs; DROP TABLE IF EXISTS compared;
    CREATE TABLE pairs (scope TEXT, first TEXT, second TEXT, similarity REAL, kind TEXT);
    CREATE TABLE compared (scope TEXT, sha256 TEXT);
    CREATE INDEX pairs_of ON pairs (scope); CREATE INDEX compared_in ON compared (scope);
"""


class CopyPair(NamedTuple):
    """Two photos (sha256, in their order) that may be copies."""

    first: str
    second: str
    similarity: float  # see image.duplicate_similarity
    second_kind: str  # how the second one differs from the first


def load_pairs(cache_dir: Path, scope: str) -> tuple[list[CopyPair], frozenset[str]]:
    """Return the pairs of the last run, and all photos that it compared with each other."""
    with open_cache(cache_dir / CACHE_FILE, CACHE_VERSION, _SCHEMA) as cache:
        query = "SELECT first, second, similarity, kind FROM pairs WHERE scope = ?"
        pairs = [CopyPair(*row) for row in cache.execute(query, [scope])]
        rows = cache.execute("SELECT sha256 FROM compared WHERE scope = ?", [scope])
        return pairs, frozenset(sha256 for (sha256,) in rows)


def save_pairs(cache_dir: Path, scope: str, pairs: Iterable[CopyPair], photos: list[str]) -> None:
    """Replace the pairs of this scope."""
    with open_cache(cache_dir / CACHE_FILE, CACHE_VERSION, _SCHEMA) as cache:
        cache.execute("BEGIN IMMEDIATE")
        cache.execute("DELETE FROM pairs WHERE scope = ?", [scope])
        cache.execute("DELETE FROM compared WHERE scope = ?", [scope])
        rows = ((scope, *pair) for pair in pairs)
        cache.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?)", rows)
        cache.executemany("INSERT INTO compared VALUES (?, ?)", ((scope, p) for p in photos))
        cache.execute("COMMIT")
