"""Frames of a video file, as decoding all of it would give them, without decoding all of it where that can be helped.

Where the container tells which frames there are (MP4 and Matroska, of codecs whose packets are one frame each), a read
seeks to the last key frame before what it wants and decodes from there, without frames that are neither wanted nor part
of others. What is told is checked against what comes out: a file that lies is decoded from its start, as is any other
file. A decoder has one thread, for loaders have workers.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from anprompt.utils.text import printable
from anprompt.video.containers import is_spare, promised_bytes, shows_frame
from anprompt.video.frames import Clip, VideoError

KEEP = 2**28  # bytes of decoded frames, still in YUV, that are kept between counting and reading
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
ONE_FRAME_A_PACKET = ("h264", "hevc", "vp8", "vp9", "av1")
ONLY_FILES = {"protocol_whitelist": "file"}  # a playlist may name what it likes, but nothing is fetched


class Key(NamedTuple):
    """A packet that decoding can start with."""

    pts: int
    dts: int | None
    place: int  # among all packets, in the order in which they are stored


class Index(NamedTuple):
    """What the packets of a file tell of its frames."""

    times: list[int]  # presentation times of the frames
    starts: list[int]  # numbers of the key frames
    keys: list[Key]
    places: Mapping[int, int]  # presentation time -> place of the packet
    spare: frozenset[int]  # presentation times of frames that no other frame is made of

    def start_of(self, frame: int) -> int:
        """Which of the keys comes last before a frame. What follows it in the file may be shown before it."""
        return bisect_right(self.starts, frame) - 1


class Packets(NamedTuple):
    """All video packets of a file, without their content."""

    pts: list[int | None]
    dts: list[int | None]
    durations: list[int]
    is_key: list[bool]
    is_shown: list[bool]
    is_spare: list[bool]
    is_discarded: list[bool]
    is_incomplete: list[bool]


class _Lying(Exception):
    """Other frames come out than the packets told."""


class VideoFile(Clip):
    """A file that FFmpeg reads."""

    def __init__(self, path: str):
        super().__init__(path)
        self.kept: list[Any] | None = None  # decoded frames, where all had to be
        self.reformatter = VideoReformatter()
        self.container, self.stream = self._open()
        try:
            packets = self._look_through()
            self._refuse_truncated(packets)
            self.index = self._index_of(packets)
            self.count = len(self.index.times) if self.index else self._count_by_decoding()
            if not self.count:
                raise VideoError.of(path, "has no frame")
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.count

    def close(self) -> None:
        self.kept = None
        self.container.close()

    def frames(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        done = 0
        if self.index:
            try:
                for frame in self._by_seeking(wanted):
                    yield self._picture(frame)
                    done += 1
                return
            except _Lying:
                self.index = None
        for frame in self._by_decoding_all(wanted[done:]):
            yield self._picture(frame)
            done += 1
        if done < len(wanted):
            raise VideoError.of(
                self.path, f"tells of {self.count} frames, but has no frame {wanted[done]}: write it anew"
            )

    # ------------------------------------------------------------------ what the container tells

    def _open(self) -> tuple[Any, Any]:
        try:
            container = av.open(f"file:{self.path}", options=ONLY_FILES)
        except av.error.FFmpegError as error:
            raise VideoError.of(
                self.path, f"is truncated, damaged or no video ({_words(error)}): fetch it again"
            ) from error
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams or streams[0].codec_context is None:
            kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            if promised_bytes(self.path) > os.path.getsize(self.path):
                raise VideoError.of(self.path, "is truncated: its tables are not complete: fetch it again")
            raise VideoError.of(self.path, f"has no video that can be decoded, but {kinds}: leave it out")
        streams[0].codec_context.thread_count = 1
        return container, streams[0]

    def _look_through(self) -> Packets:
        """Read the file once, without decoding."""
        packets = Packets([], [], [], [], [], [], [], [])
        codec, extradata = self.stream.codec_context.name, self.stream.codec_context.extradata or b""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:  # the last one is empty, and flushes decoders
                    packets.pts.append(packet.pts)
                    packets.dts.append(packet.dts)
                    packets.durations.append(packet.duration or 0)
                    packets.is_key.append(packet.is_keyframe)
                    packets.is_shown.append(shows_frame(codec, memoryview(packet)))
                    packets.is_spare.append(is_spare(codec, extradata, memoryview(packet)))
                    packets.is_discarded.append(packet.is_discard)
                    packets.is_incomplete.append(packet.is_corrupt)
        except av.error.FFmpegError as error:
            raise VideoError.of(self.path, f"is truncated or damaged ({_words(error)}): fetch it again") from error
        return packets

    def _refuse_truncated(self, packets: Packets) -> None:
        """A file that ends early, unless all the frames that it promises are there."""
        there = len(packets.pts)
        if any(packets.is_incomplete):
            number = packets.is_incomplete.index(True)
            raise VideoError.of(self.path, f"is truncated or damaged: its frame {number} is incomplete: fetch it again")
        if promised_bytes(self.path) <= os.path.getsize(self.path):
            return
        if self.stream.frames > there:
            reason = f"is truncated: {there} of {self.stream.frames} frames are there: fetch it again"
            raise VideoError.of(self.path, reason)
        promised = self._promised_end()
        ends = [time + length for time, length in zip(packets.pts, packets.durations, strict=True) if time is not None]
        end = float(max(ends, default=0) * self.stream.time_base)
        frame = float(max(packets.durations, default=0) * self.stream.time_base)
        if not self.stream.frames and promised > end + frame / 2 + 0.001:  # Matroska rounds to milliseconds
            reason = f"is truncated: {end:.2f} of {promised:.2f} seconds are there: fetch it again"
            raise VideoError.of(self.path, reason)

    def _promised_end(self) -> float:
        """Seconds, 0 where nothing is promised. FFmpeg tells it of a stream in Matroska by a tag."""
        hours, _, rest = self.stream.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        except ValueError:
            return (self.container.duration or 0) / av.time_base

    def _index_of(self, packets: Packets) -> Index | None:
        """None where the packets do not tell which frames come out."""
        known = self.container.format.name in SEEKABLE and self.stream.codec_context.name in ONE_FRAME_A_PACKET
        shown = [place for place, is_shown in enumerate(packets.is_shown) if is_shown]
        if not known or not shown or any(packets.is_discarded):
            return None
        places = {packets.pts[place]: place for place in shown}
        times = sorted(time for time in places if time is not None)
        keys = [
            Key(packets.pts[place], packets.dts[place], place)  # type: ignore[arg-type]  # no time is None below
            for place in shown
            if packets.is_key[place]
        ]
        if len(times) < len(shown) or not keys or keys[0].place or keys[0].pts != times[0]:
            return None  # no times, the same one twice, or frames before the first key frame
        if any(one.pts >= other.pts for one, other in zip(keys, keys[1:], strict=False)):
            return None
        number = {time: frame for frame, time in enumerate(times)}
        spare = frozenset(time for time, place in places.items() if packets.is_spare[place])
        return Index(times, [number[key.pts] for key in keys], keys, places, spare)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ by seeking

    def _by_seeking(self, wanted: Sequence[int]) -> Iterator[Any]:
        """Frames ``wanted``; the decoder goes on from where it is, unless a key frame lies between."""
        assert self.index is not None
        needless = self.index.spare - {self.index.times[frame] for frame in wanted}
        ahead: Iterator[tuple[int, Any]] = iter(())
        coming = len(self)  # the number of the next frame, or less
        for frame in wanted:
            start = self.index.start_of(frame)
            if coming > frame or self.index.starts[start] > coming:
                ahead = self._from(start, needless)
            for number, decoded in ahead:
                coming = number + 1
                if number == frame:
                    yield decoded
                    break
            else:
                raise _Lying

    def _from(self, start: int, needless: Set[int]) -> Iterator[tuple[int, Any]]:
        """Decoded frames from a key frame on, by number, as long as they are those that the index tells.

        Args:
            needless: times of frames that need not be decoded.
        """
        index = self.index
        assert index is not None
        key, number = index.keys[start], index.starts[start]
        for packet in self._packets_from(key):
            if packet.size and packet.pts in needless:
                continue
            for frame in self._decode(packet):
                if frame.pts is None or (number == index.starts[start] and frame.pts < key.pts):
                    continue  # shown before the key frame, and made of frames before it
                while number < len(index.times) and index.times[number] in needless:
                    number += 1
                is_start = frame.pts == key.pts
                if number == len(index.times) or frame.pts != index.times[number] or (is_start and not frame.key_frame):
                    raise _Lying
                yield number, frame
                number += 1

    def _packets_from(self, key: Key) -> Iterator[Any]:
        """Packets from ``key`` on: containers seek by one time or the other, and may stop at an earlier key frame."""
        for time in (key.pts, key.dts):
            if time is None:
                continue
            try:
                self.container.seek(time, stream=self.stream)
            except av.error.FFmpegError:
                continue
            packets = self.container.demux(self.stream)
            for packet in packets:
                place = self.index.places.get(packet.pts, -1) if packet.size else len(self)  # type: ignore[union-attr]
                if place == key.place:
                    return chain([packet], packets)
                if place > key.place:
                    break
        raise _Lying

    # ------------------------------------------------------------------ by decoding everything

    def _count_by_decoding(self) -> int:
        """Number of frames; they are kept for reading if that takes no more than ``KEEP``."""
        self.kept, count, size = [], 0, 0
        for frame in self._decode_all():
            count += 1
            size += sum(plane.buffer_size for plane in frame.planes)
            if size > KEEP:
                self.kept = None
            if self.kept is not None:
                self.kept.append(frame)
        return count

    def _by_decoding_all(self, wanted: Sequence[int]) -> Iterator[Any]:
        if self.kept is not None:
            yield from (self.kept[frame] for frame in wanted)
            return
        left = list(wanted)
        for number, frame in enumerate(self._decode_all()):
            if not left:
                return
            if number == left[0]:
                left.pop(0)
                yield frame

    def _decode_all(self) -> Iterator[Any]:
        """From the start, of the file opened anew: not every file can be wound back."""
        self.container.close()
        self.container, self.stream = self._open()
        for packet in self.container.demux(self.stream):
            yield from self._decode(packet)

    def _decode(self, packet: Any) -> Iterator[Any]:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            reason = f"is damaged: no frame comes out after {self.decoded} ({_words(error)}): fetch it again"
            raise VideoError.of(self.path, reason) from error
        for frame in frames:
            self.decoded += 1
            yield frame

    # ------------------------------------------------------------------ pictures

    def _picture(self, frame: Any) -> np.ndarray:
        """RGB, turned as the file says that it is to be shown."""
        rgb = self.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return upright(rgb, np.frombuffer(matrix, dtype="=i4")) if matrix is not None else rgb


def upright(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``frame [H, W, 3]`` turned by quarters, and mirrored, as a display matrix of a container says.

    Args:
        matrix: nine numbers ``(a, b, u, c, d, v, x, y, w)``: a pixel (x, y) is shown at (ax + cy, bx + dy), plus what
            moves the whole picture. Other angles are rounded to quarters.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        frame, across, down = frame.swapaxes(0, 1), c, b
    return np.ascontiguousarray(frame[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _is_cover(stream: Any) -> bool:
    """A picture beside sound."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _words(error: Exception) -> str:
    """FFmpeg's, without numbers and names of files."""
    return printable(getattr(error, "strerror", None) or type(error).__name__).lower()
