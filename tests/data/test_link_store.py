import json
from collections.abc import Sequence
from pathlib import Path

from mondrian.data.link_store import ExaminedJob, open_link_store
from mondrian.data.near_duplicates import PhotoGroup
from mondrian.data.photo_scan import PhotoInfo

PHOTOS = [(Path(f"{name}.jpg"), PhotoInfo(name * 64, 100, 100, b"x")) for name in "abcd"]


def read_background(photos: Sequence[tuple[Path, PhotoInfo]]) -> list[tuple[str, str, str]]:
    """Return the background texts of one text about these photos."""
    record = json.dumps({"critique": {"image_description": "A dog."}})
    with open_link_store() as store:
        jobs = [ExaminedJob(1.0, f"job-{path}", path=str(path)) for path, _ in photos]
        store.add_jobs(job._replace(words="w", record=record) for job in jobs)
        store.add_photos(photos)
        store.set_photo_groups({info.sha256: PhotoGroup(info.sha256[:16]) for _, info in photos})
        return list(store.background_texts(10))


def test_the_background_does_not_depend_on_the_order_of_the_rows() -> None:
    expected = [("", "a" * 16, '{"image_description":"A dog."}')]
    assert read_background(PHOTOS) == read_background(PHOTOS[::-1]) == expected
