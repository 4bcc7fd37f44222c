"""XMP packets: write a critique into a new one, or merge it into one of another program.

What a person or another program wrote stays: a rating, a description, and all that is not of
Mondrian's own namespace. A rating or description is replaced only if it is the one that this
module wrote, which the packet repeats in Mondrian's namespace. (XMP specification, part 1, 7.)
"""

import re
from dataclasses import dataclass
from typing import Any

from lxml import etree

from mondrian.core.errors import MondrianError, one_line
from mondrian.critique.schema import Critique

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"
MONDRIAN = "http://ns.mondrian.example/critique/1.0/"
PREFIXES = {"x": "adobe:ns:meta/", "rdf": RDF, "xmp": XMP, "dc": DC, "mondrian": MONDRIAN}
RATINGS = ((8.5, 5), (7.0, 4), (5.5, 3), (4.0, 2), (0.0, 1))  # lowest overall score, stars
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n  <rdf:Description rdf:about=""/>\n </rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
).encode()
for _prefix, _uri in PREFIXES.items():
    etree.register_namespace(_prefix, _uri)


class DamagedXmpError(MondrianError):
    """A file is not an XMP packet that can be extended."""


@dataclass(frozen=True)
class XmpResult:
    content: bytes
    unchanged: tuple[str, ...]  # what had a value of somebody else: rating, description


def choose_rating(overall_score: float) -> int:
    """Return 1 to 5 stars for an overall score of 0 to 10."""
    return next(stars for lowest, stars in RATINGS if overall_score >= lowest)


def property_name(dimension: str) -> str:
    """Return the XMP name of a dimension, such as FocusSharpness."""
    return re.sub(r"[^A-Za-z]", "", dimension)


def merge_critique(packet: bytes | None, critique: Critique, origin: dict[str, str]) -> XmpResult:
    """Return a packet with a critique; None makes a new one.

    origin  further properties of Mondrian's namespace, such as Advisor

    Raises DamagedXmpError.
    """
    tree = _parse(packet or _EMPTY)
    descriptions = _find_descriptions(tree)
    own = origin | {"OverallScore": f"{critique.overall_score:g}"}
    own |= {property_name(d.name): f"{d.score:g}" for d in critique.dimensions}
    rating, text = str(choose_rating(critique.overall_score)), critique.image_description
    text = _NOT_XML.sub("", text)
    unchanged = []
    if not _set_rating(descriptions, rating):
        unchanged.append("rating")
    if not _set_description(descriptions, text):
        unchanged.append("description")
    for name, value in (own | {"Rating": rating, "Description": text}).items():
        _set_simple(descriptions, f"{{{MONDRIAN}}}{name}", _NOT_XML.sub("", value))
    has_declaration = packet is not None and packet.lstrip(b"\xef\xbb\xbf").startswith(b"<?xml")
    content = etree.tostring(tree, encoding="UTF-8", xml_declaration=has_declaration)
    return XmpResult(content, tuple(unchanged))


def _parse(packet: bytes) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        tree = etree.fromstring(packet, parser).getroottree()
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DamagedXmpError(f"not XML: {one_line(error, 120)}") from None
    if tree.docinfo.doctype:
        raise DamagedXmpError("it declares a document type; XMP has none")
    return tree


def _find_descriptions(tree: Any) -> list[Any]:
    """Return the rdf:Description elements that hold properties; at least one."""
    root = tree.getroot()
    rdf = root if root.tag == f"{{{RDF}}}RDF" else root.find(f"{{{RDF}}}RDF")
    if rdf is None:
        raise DamagedXmpError("it has no rdf:RDF element")
    descriptions = rdf.findall(f"{{{RDF}}}Description")
    if not descriptions:
        descriptions = [etree.SubElement(rdf, f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})]
    return list(descriptions)


def _find_simple(descriptions: list[Any], name: str) -> tuple[Any, str | None]:
    """Return the element that has a simple property, and its value if there is one.

    XMP writes a property as an attribute or as an element.
    """
    for description in descriptions:
        if name in description.attrib:
            return description, description.get(name).strip()
        element = description.find(name)
        if element is not None:
            return element, (element.text or "").strip()
    return descriptions[0], None


def _set_simple(descriptions: list[Any], name: str, value: str) -> None:
    owner, _ = _find_simple(descriptions, name)
    if owner.tag == name:
        owner.text = value
    else:
        owner.set(name, value)


def _is_own(descriptions: list[Any], name: str, value: str) -> bool:
    """Return whether a value is the one that was written by `merge_critique`."""
    return _find_simple(descriptions, f"{{{MONDRIAN}}}{name}")[1] == value.strip()


def _set_rating(descriptions: list[Any], rating: str) -> bool:
    """Set the rating unless somebody rated the photo; 0 is no rating."""
    name = f"{{{XMP}}}Rating"
    _, value = _find_simple(descriptions, name)
    if value in (None, "", "0", "0.0") or _is_own(descriptions, "Rating", str(value)):
        _set_simple(descriptions, name, rating)
        return True
    return False


def _set_description(descriptions: list[Any], text: str) -> bool:
    """Set the description in the default language unless somebody wrote one."""
    name = f"{{{DC}}}description"
    if any(name in description.attrib for description in descriptions):
        return False
    elements = [e for d in descriptions if (e := d.find(name)) is not None]
    element = elements[0] if elements else etree.SubElement(descriptions[0], name)
    alternatives = element.find(f"{{{RDF}}}Alt")
    if alternatives is None:
        if (element.text or "").strip() or len(element):
            return False
        alternatives = etree.SubElement(element, f"{{{RDF}}}Alt")
    items = alternatives.findall(f"{{{RDF}}}li")
    default = next((item for item in items if item.get(_LANGUAGE) == "x-default"), None)
    old = "" if default is None else "".join(default.itertext())
    is_free = not any("".join(item.itertext()).strip() for item in items)
    if not is_free and not _is_own(descriptions, "Description", old):
        return False
    if default is None:
        default = etree.SubElement(alternatives, f"{{{RDF}}}li", {_LANGUAGE: "x-default"})
        alternatives.insert(0, default)
    default.text = text
    return True
