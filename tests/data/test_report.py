"""The page is read as a browser would: parsed, its pictures decoded, its texts escaped."""

import base64
import io
import re
from pathlib import Path

import pytest
from lxml import html
from PIL import Image

from mondrian.core.params import Params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_NAME, LinkContext, link
from mondrian.data.manifest import SECTION_NAMES, Manifest, write_manifest
from mondrian.data.report import render_data_report
from mondrian.data.split import split_records
from tests.data.test_split import record


@pytest.mark.slow
def test_the_report_shows_what_became_of_each_job_and_stands_alone(
    application: Path, params: Params, tmp_path: Path
) -> None:
    folders = ApplicationFolders(
        *(application / name for name in ("source", "analysis_md", "analysis"))
    )
    desk = LinkContext("ansel", folders, params.link)
    counts = link(application / "mondrian.db", desk, params.image, tmp_path, tmp_path)
    manifest = Manifest(tmp_path / MANIFEST_NAME)
    text = render_data_report(manifest, split_records(manifest.records(), params.prepare))
    page = html.document_fromstring(text)
    bars = dict(
        zip(
            page.xpath("//div[@class='bars']/b/text()"),
            page.xpath("//div[@class='bars']/span/text()"),
            strict=True,
        )
    )
    assert bars == {"linked": str(counts["linked"])} | {
        reason: str(count) for reason, count in counts["rejected"].items()
    }
    flags = [h.split(":")[0] for h in page.xpath("//h2[@id='suspicious']/following::h3/text()")]
    assert set(counts["suspicions"]) <= set(flags)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    pictures = page.xpath("//img/@src")
    assert len(pictures) > 50
    assert len(text) < 3_000_000
    for url in pictures:
        content = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(content)) as picture:
            assert max(picture.size) <= 240
            assert not picture.getexif()


def test_names_and_texts_are_escaped_and_a_lost_photograph_is_no_fault(
    params: Params, tmp_path: Path
) -> None:
    records = []
    for i in range(40):
        one = record(i, f"p{i}")
        photo = one.photo.model_copy(update={"path": f"<b>{i}.jpg"})
        flags = ("repeated_advice",) if i == 0 else ()
        script = {"image_description": "<script>alert(1)</script>"}
        critique = one.critique.model_copy(update=script)
        changed = {"photo": photo, "suspicions": flags, "job_id": "<i>job", "critique": critique}
        records.append(one.model_copy(update=changed))
    told = [r.model_dump_json() for r in records]
    lists: dict[str, list[str]] = {
        name: told if name == "records" else [] for name in SECTION_NAMES
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
        "found": {},
    }
    write_manifest(tmp_path / "m.json", "ansel", counts, lists)
    manifest = Manifest(tmp_path / "m.json")
    settings = params.prepare.model_copy(update={"min_test": 4})
    text = render_data_report(manifest, split_records(manifest.records(), settings))
    for raw in ("<script>", "<b>0.jpg", "<i>job"):
        assert raw not in text
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "not readable" in text
