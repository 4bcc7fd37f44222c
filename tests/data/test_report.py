"""The page is parsed as a browser does: its images are decoded, its texts escaped."""

import base64
import io
import re
from pathlib import Path

import pytest
from lxml import html
from PIL import Image

from mondrian.core.params import Params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_FILE, LinkContext, link
from mondrian.data.manifest import SECTION_NAMES, Manifest, write_manifest
from mondrian.data.report import render_data_report
from mondrian.data.split import split_records
from tests.data.test_split import record


@pytest.mark.slow
def test_the_report_shows_all_job_outcomes_and_is_self_contained(
    application: Path, params: Params, tmp_path: Path
) -> None:
    folders = ApplicationFolders(
        *(application / name for name in ("source", "analysis_md", "analysis"))
    )
    context = LinkContext("ansel", folders, params.link)
    counts = link(application / "mondrian.db", context, params.image, tmp_path, tmp_path)
    manifest = Manifest(tmp_path / MANIFEST_FILE)
    text = render_data_report(manifest, split_records(manifest.records(), params.prepare))
    page = html.document_fromstring(text)
    outcomes = dict(
        zip(
            page.xpath("//div[@class='bars']/b/text()"),
            page.xpath("//div[@class='bars']/span/text()"),
            strict=True,
        )
    )
    assert outcomes == {"linked": str(counts["linked"])} | {
        reason: str(count) for reason, count in counts["rejected"].items()
    }
    flags = [h.split(":")[0] for h in page.xpath("//h2[@id='flags']/following::h3/text()")]
    assert set(counts["suspicions"]) <= set(flags)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    images = page.xpath("//img/@src")
    assert len(images) > 50
    assert len(text) < 3_000_000
    for url in images:
        content = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(content)) as image:
            assert max(image.size) <= 240
            assert not image.getexif()


def test_names_and_texts_are_escaped_and_a_missing_photo_is_reported(
    params: Params, tmp_path: Path
) -> None:
    records = []
    for i in range(40):
        original = record(i, f"p{i}")
        photo = original.photo.model_copy(update={"path": f"<b>{i}.jpg"})
        flags = ("repeated_advice",) if i == 0 else ()
        script = {"image_description": "<script>alert(1)</script>"}
        critique = original.critique.model_copy(update=script)
        changed = {"photo": photo, "suspicions": flags, "job_id": "<i>job", "critique": critique}
        records.append(original.model_copy(update=changed))
    lines = [r.model_dump_json() for r in records]
    sections: dict[str, list[str]] = {
        name: lines if name == "records" else [] for name in SECTION_NAMES
    }
    counts = {
        "jobs": 40,
        "finished": 40,
        "linked": 40,
        "photos": 40,
        "rejected": {},
        "suspicions": {"repeated_advice": 1},
        "forms": {},
        "repairs": {},
        "match_kinds": {},
    }
    write_manifest(tmp_path / "m.json", "ansel", counts, sections)
    manifest = Manifest(tmp_path / "m.json")
    settings = params.prepare.model_copy(update={"min_test": 4})
    text = render_data_report(manifest, split_records(manifest.records(), settings))
    for raw in ("<script>", "<b>0.jpg", "<i>job"):
        assert raw not in text
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "not readable" in text
