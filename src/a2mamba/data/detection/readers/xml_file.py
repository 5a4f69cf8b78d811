"""XML files that are not trusted: no document type, so that no entity can expand and nothing outside is read."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat


class _DocumentTypeError(Exception):
    pass


def parse_xml(path: Path) -> Element:
    """The root element of a file.

    Raises:
        ValueError: one line, naming the file: it cannot be read, is not XML, or declares a document type.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"annotation file {path} cannot be read: {error.strerror or 'unreadable'}") from error
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(content, True)
        root: Element = builder.close()
    except _DocumentTypeError:
        raise ValueError(
            f"annotation file {path} declares a document type, which may hold harmful entities; remove the <!DOCTYPE>"
        ) from None
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as error:
        raise ValueError(f"annotation file {path} is not XML: {error}") from None
    return root


def number_of(element: Element | None, name: str) -> float:
    """The finite number in an element's child or attribute.

    Raises:
        ValueError: one phrase that names the field and what it holds.
    """
    text = None if element is None else element.get(name, element.findtext(name))
    try:
        value = float(text if text is not None else "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"has {name}={text!r}, expected a number")
    return value


def _refuse(*_: object) -> None:
    raise _DocumentTypeError
