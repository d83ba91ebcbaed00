"""Archives as PyTorch writes them, taken apart and put together with faults."""

import pickle
import struct
import zipfile
from pathlib import Path

FLOATS = "torch FloatStorage"


def write_archive(path: Path, records: dict[str, bytes], root: str = "archive", packed: bool = False) -> Path:
    """A zip archive of records by name, like those of ``torch.save``."""
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in records.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def records_of(path: Path) -> dict[str, bytes]:
    """The reverse, without the root."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def data_range(path: Path, name: str) -> range:
    """Places of a record's bytes in the file of the archive."""
    with zipfile.ZipFile(path) as archive:
        record = next(record for record in archive.infolist() if record.filename.endswith(f"/{name}"))
    header = path.read_bytes()[record.header_offset :][:30]
    start = record.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    return range(start, start + record.compress_size)


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickled(content, protocol: int = 2) -> bytes:
    return pickle.dumps(content, protocol)


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def numbers(values: tuple) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(qualified: str) -> bytes:
    module, _, last = qualified.partition(" ")
    return f"c{module}\n{last}\n".encode()


def tensor(offset=0, size=(2,), stride=(1,), elements=2, key="0", kind=FLOATS) -> bytes:
    """Steps that describe one tensor, right or wrong."""
    storage = b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(elements) + b"tQ"
    hooks = name("collections OrderedDict") + b")R"
    view = storage + number(offset) + numbers(size) + numbers(stride) + b"\x89" + hooks
    return name("torch._utils _rebuild_tensor_v2") + b"(" + view + b"tR"


def dict_with(value: bytes) -> bytes:
    """The pickle of ``{"x": value}``."""
    return b"\x80\x02}" + text("x") + value + b"s."
