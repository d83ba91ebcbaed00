"""What FFmpeg does not tell of a video file: how long it should be, and what its packets are good for."""

from __future__ import annotations

import os
from typing import BinaryIO

SLICE = 1  # kinds of H.264's units
HARMLESS_UNITS = (6, 9, 12)  # supplemental information, delimiters, filling


def promised_bytes(path: str) -> int:
    """The size that the head of a file promises: of MP4, Matroska or AVI; 0 where nothing is promised."""
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(64)
        if head[:4] == b"RIFF":
            size = int.from_bytes(head[4:8], "little")
            return 0 if size == 2**32 - 1 else 8 + size
        if head[:4] == b"\x1aE\xdf\xa3":
            return _matroska_size(head)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _boxes_end(file, os.path.getsize(path))
    return 0


def _matroska_size(head: bytes) -> int:
    """EBML's header, then one segment, each an id, a size and so many bytes."""
    place, size = _vint(head, 4)
    if size is None or head[place + size : place + size + 4] != b"\x18\x53\x80\x67":
        return 0
    place, size = _vint(head, place + size + 4)
    return 0 if size is None else place + size


def _vint(data: bytes, place: int) -> tuple[int, int | None]:
    """The place behind EBML's number at ``place``, and the number; None where it is unknown."""
    if place >= len(data) or not data[place]:
        return place, None
    length = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + length], "big") & (1 << 7 * length) - 1
    return place + length, None if value == (1 << 7 * length) - 1 else value


def _boxes_end(file: BinaryIO, there: int) -> int:
    """Where the last of MP4's boxes ends; a box begins with its size and its name."""
    place = 0
    while place + 8 <= there:
        file.seek(place)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: up to the end of the file
            break
        place += size
    return place


# ---------------------------------------------------------------------------------------------- packets


def shows_frame(codec: str, packet: memoryview) -> bool:
    """Whether a frame comes out for a packet. Encoders of VP8 and VP9 store some for reference only."""
    return {"vp8": _is_shown_vp8, "vp9": _is_shown_vp9}[codec](packet) if codec in ("vp8", "vp9") else True


def _is_shown_vp8(packet: memoryview) -> bool:
    """RFC 6386, 9.1: show_frame."""
    return bool(packet[0] >> 4 & 1)


def _is_shown_vp9(packet: memoryview) -> bool:
    """A superframe shows one frame; of any other packet, the first byte says it."""
    first, last = packet[0], packet[-1]
    if last & 0xE0 == 0xC0 or first >> 6 != 2:
        return True
    profile = (first >> 5 & 1) | (first >> 4 & 1) << 1
    bits = first << 1 if profile == 3 else first
    return bool(bits >> 3 & 1) or bool(bits >> 1 & 1)  # show_existing_frame, show_frame


def is_spare(codec: str, extradata: bytes, packet: memoryview) -> bool:
    """Whether decoding can go on without a packet, since no other frame is made of its frame.

    It is told of H.264 in MP4 and Matroska only: a packet consists of units, each behind its length, whose first byte
    has two bits that are 0 where nothing refers to it, and five for its kind (ITU-T H.264, 7.3.1).
    """
    if codec != "h264" or len(extradata) < 5 or extradata[0] != 1:
        return False
    width = 1 + (extradata[4] & 3)  # bytes of a length
    place, slices = 0, 0
    while place + width < len(packet):
        unit = packet[place + width]
        if unit & 31 == SLICE and not unit >> 5:
            slices += 1
        elif unit & 31 not in HARMLESS_UNITS:
            return False
        place += width + int.from_bytes(packet[place : place + width], "big")
    return slices > 0
