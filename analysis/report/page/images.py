"""Images inside a page: their format, their shape and their data URI."""

import base64
import re
import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_VIEW_BOX = re.compile(rb"""<svg\b[^>]*?\bviewBox\s*=\s*["']\s*\S+\s+\S+\s+([\d.]+)\s+([\d.]+)""")


def media_type(image: bytes) -> str | None:
    """image/png, image/svg+xml, or None for any other format."""
    if image.startswith(_PNG):
        return "image/png"
    # An XML declaration, a doctype and comments may come first; a page of HTML may hold an SVG
    head = image[:4096].lower()
    return "image/svg+xml" if b"<svg" in head and b"<html" not in head else None


def data_uri(image: bytes) -> str:
    """The image as an address that holds all of it."""
    return f"data:{media_type(image)};base64,{base64.b64encode(image).decode('ascii')}"


def aspect(image: bytes) -> float | None:
    """Width over height; None if the image doesn't say."""
    if media_type(image) == "image/png":
        sides = struct.unpack(">II", image[16:24].ljust(8, b"\0"))
    else:
        found = _VIEW_BOX.search(image)
        sides = tuple(map(float, found.groups())) if found else (0, 0)
    width, height = sides
    return width / height if height else None
