"""Records of a manifest, and their split."""

from functools import cache
from pathlib import Path

from mondrian.core.params import PrepareParams, load_params
from mondrian.data.manifest import SECTION_NAMES, ManifestRecord, Photo, write_manifest
from mondrian.data.quality.quality_flags import words_hash
from mondrian.data.split import DatasetSplit, split_records
from mondrian.data.split_check import check_split_sizes
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT

PREPARE = load_params(ROOT / "params.yaml").prepare
COUNTS = {
    "jobs": 3,
    "finished": 3,
    "linked": 3,
    "photos": 3,
    "rejected": {},
    "suspicions": {},
    "forms": {"json": 3},
    "repairs": {},
    "match_kinds": {},
    "reviewed": {},
    "text_only": 0,
}


@cache
def record(i: int, group: str, text: int | None = None) -> ManifestRecord:
    critique = write_critique("ansel", draw_scene(5, i if text is None else text))
    photo = Photo(
        path=f"{i}.jpg",
        sha256=f"{i:064x}",
        width=640,
        height=512,
        group=group,
        match_kind="as_stored",
    )
    return ManifestRecord(
        job_id=f"job-{i}",
        photo=photo,
        critique=critique,
        words=words_hash(critique),
        text_from="analysis_markdown",
        form="json",
        repairs=(),
        created="",
        mode="",
        model="",
        suspicions=(),
    )


def split(records: list[ManifestRecord], **changes: object) -> DatasetSplit:
    params = PrepareParams.model_validate(PREPARE.model_dump() | changes)
    result = split_records(records, params)
    check_split_sizes("ansel", result, params)
    return result


def make_records(count: int = 120) -> list[ManifestRecord]:
    return [record(i, f"photo-{i}") for i in range(count)]


def write_records(path: Path, records: list[ManifestRecord]) -> None:
    lines = [r.model_dump_json() for r in records]
    sections: dict[str, list[str]] = {
        name: lines if name == "records" else [] for name in SECTION_NAMES
    }
    write_manifest(path, "ansel", COUNTS, sections)
