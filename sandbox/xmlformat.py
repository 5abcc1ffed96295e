"""Bodies and answers in XML, beside JSON.

An answer is what the JSON would be, in ``<response>``: a list is its element repeated, nothing is
an empty element; so public clients read it (``response.result.sys_id``), no page shows it. A body
is ``<request>`` with an ``<entry>`` for each object:
https://www.servicenow.com/docs/r/api-reference/rest-api-explorer/r_ScriptedRESTServiceScriptExamples.html
"""

import re
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, SubElement, XMLParser, tostring

from sandbox.schema import Refused

# What XML 1.0 cannot hold, however it is written.
_NO_CHARACTERS: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_DEPTH_MAX: Final = 20


def write_xml(content: object) -> bytes:
    """*content*, of JSON's types, as a document."""
    root = Element("response")
    _fill(root, content)
    document: bytes = tostring(root, encoding="UTF-8", xml_declaration=True)
    return document


def read_xml(body: bytes) -> Any:
    """What JSON would have said in place of *body*. Raises Refused (400)."""
    # A document type can name entities that grow without end; no client of a REST API needs one.
    if b"<!DOCTYPE" in body.replace(b"\0", b"") or b"<!ENTITY" in body.replace(b"\0", b""):
        raise _unreadable("The body has a document type")
    parser = XMLParser()  # noqa: S314  # without a document type there is nothing to expand
    try:
        parser.feed(body)
        root = parser.close()
    except (ParseError, ValueError, LookupError) as wrong:
        raise _unreadable("The body is no XML") from wrong
    if root.tag != "request":
        raise _unreadable("The body is no <request>")
    entries = [child for child in root if child.tag == "entry"]
    return (
        [_read(entry, _DEPTH_MAX) or {} for entry in entries]
        if entries
        else _read(root, _DEPTH_MAX) or {}
    )


def _fill(element: Element, content: object) -> None:
    match content:
        case dict():
            for name, value in content.items():
                # Of the platform's names only the numbers of states are no names of elements.
                tag = name if _NAME.fullmatch(name) else f"_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
                for one in value if isinstance(value, list) else [value]:
                    _fill(SubElement(element, tag), one)
        case list():
            for one in content:
                _fill(SubElement(element, element.tag), one)
        case bool():
            element.text = str(content).lower()
        case None:
            pass
        case _:
            element.text = _NO_CHARACTERS.sub("", str(content))


def _read(element: Element, depth: int) -> Any:
    if len(element) == 0:
        return element.text or ""
    if depth == 0:
        raise _unreadable("The body is nested too deep")
    return {child.tag: _read(child, depth - 1) for child in element}


def _unreadable(why: str) -> Refused:
    return Refused(400, "Exception while reading request", why)
