"""Video files that tests write, and their frames by decoding everything."""

import struct
from fractions import Fraction

import av
import numpy as np

CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".mkv": "libx264"}
CLOSED = {"sc_threshold": "0", "bf": "2", "b_strategy": "0"}  # key frames where gop says, and B-frames between


def pictures(count, size=(64, 48), seed=0):
    """Frames ``[n, H, W, 3]`` of which none is another: blocks of random colours, and a bar that moves."""
    generator = np.random.default_rng(seed)
    width, height = size
    blocks = generator.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    frames = blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    for number, frame in enumerate(frames):
        frame[:, number % width] = 255
    return frames


def variable_times(count, seed=0):
    """Milliseconds from 0 on, with gaps of 10 to 90."""
    return [0, *np.cumsum(np.random.default_rng(seed).integers(10, 90, count - 1)).tolist()]


def write_clip(path, frames, codec=None, gop=10, times=None, options=CLOSED, container=None, audio=False):
    """Encode ``frames`` at 25 a second, or at ``times`` in milliseconds."""
    codec = codec or CODECS[path.suffix]
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.options = dict(options)
        stream.codec_context.time_base = Fraction(1, 25) if codec == "mpeg4" else Fraction(1, 1000)
        sound = output.add_stream("aac", rate=16000) if audio else None
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = number if codec == "mpeg4" else times[number] if times else 40 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound:
            output.mux(silence(sound, len(frames) / 25))
    return path


def silence(stream, seconds):
    made = []
    for start in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        made += stream.encode(frame)
    return made + stream.encode()


def write_sound(path, cover=False):
    """One second of silence, with a picture or without."""
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=16000)
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic.value  # PyAV 17 takes a number
            output.mux(picture.encode(av.VideoFrame.from_ndarray(pictures(1)[0], "rgb24")))
            output.mux(picture.encode())
        output.mux(silence(sound, 1))
    return path


def decode_all(path):
    """All frames ``[n, H, W, 3]``, as FFmpeg gives them from the start of the file on."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def set_display_matrix(path, a, b, c, d):
    """Let an MP4 file say that a pixel (x, y) is to be shown at (ax + cy, bx + dy), up to a move."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # behind the track's number, times, layer and volume
    content[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
