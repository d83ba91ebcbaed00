"""Reading clips, and learning from them: seeking against decoding every frame, a loader, and a step of GA2-CLIP.

    python -m benchmarks.video                            # clips of 60 s, 320x240, H.264; a step on ViT-B/16
    python -m benchmarks.video --parts reading --seconds 10 --frames 8 --workers 0 2 4 --output video.json
    python -m benchmarks.video --parts step

A clip gives 32 frames, or as many as ``--frames`` says, as a test or a training takes them. Textbook opens the file,
decodes all of it and picks the frames by their number; both decode with one thread, and convert nothing but what they
pick. Key frames are 2 s apart, as video sites have them, or as far as x264 leaves them on its own (250 frames).
The step, against its textbook formulation, is that of ``benchmarks/video_step.py``. Each part takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from anprompt.utils.config import add_shared_cfg
from anprompt.video.clips import VideoDatasetWrapper, with_staying_workers
from anprompt.video.decoding import open_video
from anprompt.video.items import VideoDatum
from anprompt.video.sampling import test_indices, train_indices
from anprompt.video.transforms import clip_transform
from benchmarks import measure
from benchmarks.cases import BACKBONES
from benchmarks.data import rate
from benchmarks.report import video_table
from benchmarks.video_step import measure_step
from dassl.config import get_cfg_default

SIZE = (320, 240)
FRAMES_A_SECOND = 25
GROUPS = {"2 s": 2 * FRAMES_A_SECOND, "x264's default": 250}  # frames from one key frame to the next
CLIPS = 16  # an epoch of the loader
BATCH = 8
CPU = torch.device("cpu")
PARTS = ("reading", "step")


def write_clip(path: Path, seconds: int, group: int) -> Path:
    """A camera that pans over a random landscape, with noise: nothing of it is still."""
    generator = np.random.default_rng(0)
    width, height = SIZE
    coarse, fine = [
        Image.fromarray(generator.integers(0, 256, (height // cell, 4 * width // cell, 3), dtype=np.uint8))
        .resize((4 * width, height), Image.Resampling.BICUBIC)
        for cell in (40, 4)
    ]  # fmt: skip
    scene = np.asarray(Image.blend(coarse, fine, alpha=0.2)).astype(np.int16)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=FRAMES_A_SECOND)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", group
        stream.options = {"preset": "veryfast"}
        for number in range(seconds * FRAMES_A_SECOND):
            left = 2 * number % (3 * width)
            noise = generator.integers(-4, 5, (height, width, 1), dtype=np.int16)
            picture = (scene[:, left : left + width] + noise).clip(0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode())
    return path


def decode_every_frame(path: Path, indices: Sequence[int]) -> np.ndarray:
    """What reading a clip amounts to without an index."""
    wanted, found = set(indices), {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
    return np.stack([found[index] for index in indices])


def measure_decoding(path: Path, frames: int, repeats: int, tick: Callable[[], Any]) -> dict[str, Any]:
    """Both ways, for the frames of a test and of a training, which must be the same ones."""
    with open_video(path) as clip:
        count = len(clip)
    torch.manual_seed(0)
    takes = {"test": test_indices(count, frames)[0], "training": train_indices(count, frames)}
    result: dict[str, Any] = {}
    for use, indices in takes.items():

        def ours(indices: Sequence[int] = indices) -> np.ndarray:
            with open_video(path) as clip:
                return clip.read(indices)

        def textbook(indices: Sequence[int] = indices) -> np.ndarray:
            return decode_every_frame(path, indices)

        if not np.array_equal(ours(), textbook()):
            raise SystemExit(f"error: the frames of {path} are not those of decoding all of it")
        with open_video(path) as clip:
            clip.read(indices)
            decoded = clip.decoded
        times = measure.interleaved({"textbook": textbook, "ours": ours}, repeats, CPU, tick)
        result[use] = {**measure.comparison(times), "decoded": decoded, "frames": count}
    return result


def config(frames: int, workers: int) -> CfgNode:
    """What a loader of clips reads; 224 pixels, scaled and cut as ``vit_b16.yaml`` has it."""
    cfg = get_cfg_default()
    add_shared_cfg(cfg)
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (224, 224), "bicubic"
    cfg.VIDEO.NUM_FRAMES, cfg.DATALOADER.NUM_WORKERS = frames, workers
    return cfg


def measure_loader(path: Path, frames: int, workers: int) -> dict[str, Any]:
    """Clips per second of a training and of a test, after a first pass that starts the workers."""
    cfg, items = config(frames, workers), [VideoDatum(str(path))] * CLIPS
    result: dict[str, Any] = {"workers": workers}
    for use, is_train in (("training", True), ("test", False)):
        clips = VideoDatasetWrapper(cfg, items, clip_transform(cfg, is_train), is_train)
        loader = with_staying_workers(DataLoader(clips, BATCH, num_workers=workers))
        deque(loader, maxlen=0)
        result[use] = rate(CLIPS, partial(deque, loader, maxlen=0))
    return result


def measure_reading(seconds: int, frames: int, repeats: int, workers: Sequence[int]) -> dict[str, Any]:
    """Clips of either distance between key frames: decoding, then loaders with each number of workers."""
    groups, loaders = [], []
    with tempfile.TemporaryDirectory() as folder, tqdm(desc="clips") as bar:
        for name, apart in GROUPS.items():
            path = write_clip(Path(folder, f"{apart}.mp4"), seconds, apart)
            groups.append({"key_frames": name, **measure_decoding(path, frames, repeats, bar.update)})
            loaders += [{"key_frames": name, **measure_loader(path, frames, count)} for count in workers]
    return {"seconds": seconds, "size": SIZE, "frames": frames, "decoding": groups, "loaders": loaders}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: both")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clips (default: 60)")
    parser.add_argument("--frames", type=int, default=32, help="frames that are read of a clip (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each (default: 5)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="numbers of workers (default: 0 2)")
    parser.add_argument("--backbone", choices=BACKBONES, default="ViT-B/16", help="of the step (default: ViT-B/16)")
    measure.add_output_options(parser)
    args = parser.parse_args(argv)
    result = measure.result_of("video", argv)
    if "reading" in args.parts:
        result |= measure_reading(args.seconds, args.frames, args.repeats, args.workers)
    if "step" in args.parts:
        result["step"] = measure_step(args.backbone, args.repeats)
    measure.hand_over(result, args, video_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
