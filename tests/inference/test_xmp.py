"""XMP packets: what other programs and people wrote stays."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mondrian.critique.schema import Critique
from mondrian.inference.xmp import (
    DC,
    MONDRIAN,
    RATINGS,
    RDF,
    XMP,
    DamagedXmpError,
    choose_rating,
    merge_critique,
    property_name,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT
from tests.waiting import PATIENCE

ORIGIN = {"Advisor": "ansel", "Base": "abc", "Adapter": "def"}
CRITIQUE = write_critique("ansel", draw_scene(5, 1))
OTHER = write_critique("ansel", draw_scene(5, 2)).model_copy(update={"overall_score": 9.0})
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/" xmp:Rating="3" darktable:xmp_version="5">
   <darktable:history><rdf:Seq><rdf:li darktable:num="0" darktable:operation="exposure"/></rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]))
ratings = st.sampled_from([None, "-1", "0", "1", "3", "5"])


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Draw a packet as programs write them: properties as attributes or elements."""
    meta = etree.Element("{adobe:ns:meta/}xmpmeta", nsmap={"x": "adobe:ns:meta/"})
    rdf = etree.SubElement(meta, f"{{{RDF}}}RDF", nsmap={"rdf": RDF})
    description = etree.SubElement(rdf, f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    if draw(st.booleans()):
        description = etree.SubElement(rdf, f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    if rating := draw(ratings):
        if draw(st.booleans()):
            description.set(f"{{{XMP}}}Rating", rating)
        else:
            etree.SubElement(description, f"{{{XMP}}}Rating").text = rating
    if languages := draw(st.dictionaries(st.sampled_from(["x-default", "de-DE"]), texts)):
        element = etree.SubElement(description, f"{{{DC}}}description")
        alternatives = etree.SubElement(element, f"{{{RDF}}}Alt")
        for language, text in languages.items():
            item = etree.SubElement(alternatives, f"{{{RDF}}}li")
            item.set("{http://www.w3.org/XML/1998/namespace}lang", language)
            item.text = text
    subject = etree.SubElement(etree.SubElement(description, f"{{{DC}}}subject"), f"{{{RDF}}}Bag")
    for keyword in draw(st.lists(texts, max_size=3)):
        etree.SubElement(subject, f"{{{RDF}}}li").text = keyword
    description.set("{http://ns.adobe.com/camera-raw-settings/1.0/}Exposure2012", draw(texts))
    return bytes(etree.tostring(meta, encoding=draw(st.sampled_from(["UTF-8", "UTF-16"]))))


def read_property(packet: bytes, name: str) -> list[str]:
    root = etree.fromstring(packet)
    attributes = [e.get(name) for e in root.iter() if e.get(name) is not None]
    return attributes + [(e.text or "") for e in root.iter(name)]


def read_description(packet: bytes) -> dict[str, str]:
    items = etree.fromstring(packet).iterfind(f".//{{{DC}}}description/{{{RDF}}}Alt/{{{RDF}}}li")
    return {next(iter(item.attrib.values())): item.text or "" for item in items}


def read_others(packet: bytes) -> str:
    """Return the canonical form of all that a critique does not set."""
    root = etree.fromstring(packet)
    for element in list(root.iter()):
        for name in list(element.attrib):
            if name == f"{{{XMP}}}Rating" or name.startswith(f"{{{MONDRIAN}"):
                del element.attrib[name]
        if element.tag in (f"{{{DC}}}description", f"{{{XMP}}}Rating"):
            element.getparent().remove(element)
    return str(etree.tostring(root, method="c14n", exclusive=True))


@given(packets())
def test_a_merge_keeps_what_others_wrote(packet: bytes) -> None:
    merged = merge_critique(packet, CRITIQUE, ORIGIN)
    assert read_others(merged.content) == read_others(packet)
    before = read_property(packet, f"{{{XMP}}}Rating")
    stars = str(choose_rating(CRITIQUE.overall_score))
    is_free = before in ([], ["0"])
    assert read_property(merged.content, f"{{{XMP}}}Rating") == ([stars] if is_free else before)
    assert ("rating" in merged.unchanged) == (not is_free)
    old, new = read_description(packet), read_description(merged.content)
    if any(text.strip() for text in old.values()):
        assert new == old
        assert "description" in merged.unchanged
    else:
        assert new == old | {"x-default": CRITIQUE.image_description}
    assert read_property(merged.content, f"{{{MONDRIAN}}}OverallScore") == [
        f"{CRITIQUE.overall_score:g}"
    ]


@given(st.none() | packets())
def test_a_second_merge_changes_nothing_and_another_critique_only_its_own(
    packet: bytes | None,
) -> None:
    first = merge_critique(packet, CRITIQUE, ORIGIN)
    assert merge_critique(first.content, CRITIQUE, ORIGIN) == first
    second = merge_critique(first.content, OTHER, ORIGIN)
    assert second.unchanged == first.unchanged
    if not first.unchanged:
        assert read_property(second.content, f"{{{XMP}}}Rating") == ["5"]
        assert OTHER.image_description in read_description(second.content).values()
    assert read_others(second.content) == read_others(first.content)


def test_a_rating_that_a_person_changed_afterwards_stays() -> None:
    content = merge_critique(None, CRITIQUE, ORIGIN).content
    stars = choose_rating(CRITIQUE.overall_score)
    edited = content.replace(f'xmp:Rating="{stars}"'.encode(), b'xmp:Rating="-1"')
    merged = merge_critique(edited, OTHER, ORIGIN)
    assert merged.unchanged == ("rating",)
    assert read_property(merged.content, f"{{{XMP}}}Rating") == ["-1"]


def test_the_history_of_darktable_and_its_declaration_stay() -> None:
    merged = merge_critique(DARKTABLE.encode(), CRITIQUE, ORIGIN)
    assert merged.content.startswith(b"<?xml version")
    assert b"<?xpacket" not in merged.content
    assert b'darktable:operation="exposure"' in merged.content
    assert merged.unchanged == ("rating",)


def test_the_processing_instructions_of_a_packet_stay() -> None:
    content = merge_critique(None, CRITIQUE, ORIGIN).content
    assert content.startswith('<?xpacket begin="\ufeff"'.encode())
    assert content.endswith(b'<?xpacket end="w"?>')
    assert merge_critique(content, OTHER, ORIGIN).content.endswith(b'<?xpacket end="w"?>')


@pytest.mark.parametrize(
    "packet",
    [
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF",
        b"no xml",
        b"<html/>",
        b"\0" * 40,
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    ],
)
def test_what_is_no_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(DamagedXmpError):
        merge_critique(packet, CRITIQUE, ORIGIN)


def test_control_characters_of_a_critique_are_left_out() -> None:
    critique = CRITIQUE.model_copy(update={"image_description": " a\x00b\x0b\n & <c> "})
    content = merge_critique(None, critique, ORIGIN).content
    assert read_description(content) == {"x-default": " ab\n & <c> "}
    assert merge_critique(content, critique, ORIGIN).unchanged == ()


def test_the_documented_table_of_stars_is_the_one_in_use() -> None:
    text = (ROOT / "docs/critiques.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) to ([\d.]+) \| (★+) \|", text, re.MULTILINE)
    assert len(rows) == len(RATINGS) == 5
    for low, high, stars in rows:
        assert choose_rating(float(low)) == choose_rating(float(high)) == len(stars)


def test_exiv2_reads_the_sidecar(tmp_path: Path, critique: Critique) -> None:
    exiv2 = shutil.which("exiv2")
    if exiv2 is None:
        pytest.skip("no exiv2 on this machine")
    packet, file = DARKTABLE.replace('"3"', '"0"').encode(), tmp_path / "photo.xmp"
    file.write_bytes(merge_critique(packet, critique, ORIGIN).content)
    command = [exiv2, "-PXkt", str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert printed.returncode == 0, printed.stderr
    values = dict(line.split(maxsplit=1) for line in printed.stdout.splitlines() if " " in line)
    assert values["Xmp.xmp.Rating"] == str(choose_rating(critique.overall_score))
    assert values["Xmp.dc.description"] == f'lang="x-default" {critique.image_description}'
    assert values["Xmp.mondrian.Advisor"] == "ansel"
    for dimension in critique.dimensions:
        assert values[f"Xmp.mondrian.{property_name(dimension.name)}"] == f"{dimension.score:g}"
    assert values["Xmp.darktable.history[1]/darktable:operation"] == "exposure"
