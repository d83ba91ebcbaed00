"""Files of ``torch.save`` and TorchScript, read without running anything in them.

Such a file is a zip archive (before PyTorch 1.6: a stream) of a pickle, which may name any function of Python and call
it, and of the bytes of its tensors. Here a name in the pickle stays a name: tensors and containers are built by the
functions below, objects of a few packages become inert :class:`Record`\\ s, and every other name is an error. Of a
TorchScript archive, the program in ``code/`` is only searched for the names of parameters and buffers.

What a file claims is believed only within its own size: no compressed bombs, no storage larger than its record, no
tensor beyond its storage. All checksums are tested. Every fault is one ValueError that says what is wrong; the caller
knows the name of the file and what to do.
"""

from __future__ import annotations

import errno
import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, UntypedStorage

ZIP = b"PK\x03\x04"  # the first bytes of a zip archive
HEADER = 30  # bytes before a record, without its name
CHUNK = 2**24  # bytes that are read at a time
SMALL = 2**24  # bytes to which any archive may unpack; beyond, up to
RATIO = 20  # times the size of the file. Weights hardly shrink, programs by four or so
PICKLE_BYTES = 2**26
PICKLE_STEPS = 1_000_000  # a checkpoint with 20,000 class names takes 50,000
VALUES = 1_000_000  # in a content; one that contains itself has no end
DEPTH = 60  # of containers, and of modules, in each other
SPREAD = 2**24  # elements that a tensor may have more than its storage: an expanded one repeats them

RECORDED = ("__torch__.", "torch.optim.", "dassl.optim.")  # packages whose objects become records

# ``torch.save`` before PyTorch 1.6: three pickles of these, then the content
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPE_NAMES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Name(NamedTuple):
    """A function or class that a pickle names, and that is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """Stands for an object whose class is not loaded: the name of the class, and what was stored of the object."""

    def __init__(self, name: Name):
        self.name = name
        self.state: Any = {}


class Storage(NamedTuple):
    """The elements behind one or more tensors."""

    data: UntypedStorage
    dtype: torch.dtype
    size: int  # in elements


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` was given; of a TorchScript archive, its state dict. Tensors are on the CPU.

    Parameters come back as plain tensors. Tensors that shared memory share it again.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, of another kind, or not harmless; says what is wrong, not in which file.
    """
    with path.open("rb") as stream:
        is_zip = stream.read(len(ZIP)) == ZIP
        stream.seek(0)
        content = _read_zip(stream) if is_zip else _read_legacy(stream)
    _check_extent(content)
    return content


def _check_extent(content: Any) -> None:
    """Raise a ValueError if walking through the containers of a content would take for ever."""
    seen, level = 0, [content]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            seen += len(inner)
            if seen > VALUES:  # asked before they are gathered: a million lists may be one and the same
                raise ValueError(f"it holds more than {VALUES:,} values")
            below.extend(inner)
        level = below
        if not level:
            return
    raise ValueError(f"it holds containers in containers, more than {DEPTH} deep")


# ---------------------------------------------------------------------------------------------- the archive


def _read_zip(stream: BinaryIO) -> Any:
    try:
        archive = _Archive(stream)
        pickled = archive.read("data.pkl", PICKLE_BYTES)
        content = unpickle(io.BytesIO(pickled), archive.storage)
        if archive.has("constants.pkl"):  # TorchScript's own
            content = _state_dict(content, archive.source)
        archive.test_rest()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError) as error:
        raise ValueError(f"the archive is cut short or damaged ({error})") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError("the archive is damaged (a place before its beginning)") from None
    return content


class _Archive:
    """The records of a zip archive, below the one folder that PyTorch puts them in."""

    def __init__(self, stream: BinaryIO):
        self.zip = zipfile.ZipFile(stream)
        size = stream.seek(0, io.SEEK_END)
        records = self.zip.infolist()
        _check_records(records, size)
        if not any(record.CRC for record in records):  # torch.serialization.set_crc32_options(False)
            for record in records:
                record.CRC = None  # type: ignore[assignment]  # zipfile's word for: not to be compared
        self.records = {record.filename: record for record in records}
        roots = [name.removesuffix("data.pkl") for name in self.records if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise ValueError(f"expected a zip archive with one record NAME/data.pkl, found {len(roots)}")
        self.root = roots[0]
        self.untested = dict(self.records)
        self.storages: dict[str, UntypedStorage] = {}
        self.is_big_endian = self.has("byteorder") and self.read("byteorder", 16) == b"big"

    def has(self, name: str) -> bool:
        return self.root + name in self.records

    def read(self, name: str, limit: int = SMALL) -> bytes:
        """A whole record of at most ``limit`` bytes, its checksum tested."""
        record = self._find(name)
        if record.file_size > limit:
            raise ValueError(f"the record {name} has {record.file_size:,} bytes, expected at most {limit:,}")
        content = bytearray(record.file_size)
        self._read_into(memoryview(content), record)
        return bytes(content)

    def source(self, name: str) -> str:
        """A file of the program, by its path below ``code/``; empty where there is none."""
        return self.read(f"code/{name}").decode() if self.has(f"code/{name}") else ""

    def storage(self, key: str, dtype: torch.dtype, size: int) -> Storage:
        """The storage that the pickle calls ``key``, with ``size`` elements."""
        record = self._find(f"data/{key}")
        if record.file_size != size * dtype.itemsize:
            raise ValueError(f"the record data/{key} has {record.file_size:,} bytes, not {size:,} of {_short(dtype)}")
        if key not in self.storages:
            # PyTorch's own memory, because its alignment may change the last bit of a product.
            data = self.storages[key] = UntypedStorage(record.file_size)
            self._read_into(_bytes_of(data), record)
            if self.is_big_endian:
                data.byteswap(dtype)
        return Storage(self.storages[key], dtype, size)

    def test_rest(self) -> None:
        """Read what nothing has asked for, for its checksum."""
        for record in list(self.untested.values()):
            self._read_into(memoryview(bytearray(record.file_size)), record)

    def _find(self, name: str) -> zipfile.ZipInfo:
        try:
            return self.records[self.root + name]
        except KeyError:
            raise ValueError(f"the record {name} is missing") from None

    def _read_into(self, target: memoryview, record: zipfile.ZipInfo) -> None:
        """Read a record to its end, where its checksum is tested."""
        name = record.filename.removeprefix(self.root)
        try:
            with self.zip.open(record) as stream:
                for start in range(0, len(target), CHUNK):
                    part = target[start : start + CHUNK]
                    if _fill(part, stream) != len(part):
                        raise ValueError(f"the record {name} is shorter than it says")
                if stream.read(1):
                    raise ValueError(f"the record {name} is longer than it says")
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"the record {name} is damaged: {type(error).__name__}") from None
        self.untested.pop(record.filename, None)


def _fill(target: memoryview, stream: Any) -> int:
    """Read until ``target`` is full or ``stream`` ends; the bytes read."""
    done = 0
    while done < len(target):
        block = stream.read(len(target) - done)
        if not block:
            break
        target[done : done + len(block)] = block
        done += len(block)
    return done


def _check_records(records: list[zipfile.ZipInfo], size: int) -> None:
    """Raise a ValueError if the table of contents of an archive of ``size`` bytes cannot be true."""
    names = Counter(record.filename for record in records)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"the record {twice[0]} is there twice")
    end, before = 0, ""
    for record in sorted(records, key=lambda record: record.header_offset):
        if record.flag_bits & 0x1:
            raise ValueError(f"the record {record.filename} is encrypted")
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the record {record.filename} is packed in a way that PyTorch does not know")
        if record.compress_type == zipfile.ZIP_STORED and record.compress_size != record.file_size:
            raise ValueError(f"the record {record.filename} states two sizes")
        if record.header_offset < end:
            raise ValueError(f"the records {before} and {record.filename} overlap")
        end, before = record.header_offset + HEADER + record.compress_size, record.filename
        if end > size:
            raise ValueError(f"the record {record.filename} reaches beyond the end of the file")
    total = sum(record.file_size for record in records)
    if total > SMALL + RATIO * size:
        raise ValueError(f"its {size:,} bytes claim to hold {total:,}")


def _bytes_of(data: UntypedStorage) -> memoryview:
    return torch.empty(0, dtype=torch.uint8).set_(data).numpy().data


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------- the older stream


def _read_legacy(stream: BinaryIO) -> Any:
    """Content of a file of ``torch.save`` before PyTorch 1.6: pickles, then the storages in order of their keys."""
    if stream.read(1) != pickle.PROTO:
        raise ValueError("it is neither a zip archive nor an older file of torch.save")
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    storages: dict[str, Storage] = {}
    claimed = 0

    def storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        nonlocal claimed
        if key not in storages:
            claimed += count * dtype.itemsize
            if claimed > size:
                raise ValueError(f"its {size:,} bytes claim to hold {claimed:,}")
            storages[key] = Storage(UntypedStorage(count * dtype.itemsize), dtype, count)
        if storages[key][1:] != (dtype, count):
            raise ValueError(f"the storage {key} is described in two ways")
        return storages[key]

    def nothing(key: str, *_: Any) -> Storage:
        raise ValueError(f"the storage {key} comes before the content")

    if (unpickle(stream, nothing), unpickle(stream, nothing)) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("it is no file of torch.save")
    machine, content, keys = unpickle(stream, nothing), unpickle(stream, storage), unpickle(stream, nothing)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it comes from a machine with another order of bytes")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise ValueError("its storages are not those that the content needs")
    for key in keys:
        data, dtype, count = storages[key]
        if stream.read(8) != struct.pack("<q", count) or _fill(_bytes_of(data), stream) != data.nbytes():
            raise ValueError(f"the storage {key} is cut short or has not {count:,} elements of {_short(dtype)}")
    return content


# ---------------------------------------------------------------------------------------------- the pickle


def unpickle(stream: BinaryIO, storage_of: Callable[[str, torch.dtype, int], Storage]) -> Any:
    """What a pickle of PyTorch describes.

    Args:
        stream: at its beginning; afterwards, behind its end.
        storage_of: finds the storage with a key, for a dtype and a number of elements.

    Raises:
        ValueError: the pickle is damaged, or needs more than tensors, plain data and records.
    """
    machine = _Unpickler(storage_of)
    try:
        for count, (step, argument, _) in enumerate(pickletools.genops(stream)):
            if count > PICKLE_STEPS:
                raise ValueError(f"it takes more than {PICKLE_STEPS:,} steps")
            machine.take(step.name, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None


class _Unpickler:
    """The stack machine of pickle, for the steps that plain data and tensors need."""

    CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    LITERALS = frozenset((
        "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT", "BINUNICODE",
        "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    ))  # fmt: skip

    def __init__(self, storage_of: Callable[[str, torch.dtype, int], Storage]):
        self.storage_of = storage_of
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, step: str, argument: Any) -> None:
        """One step of the pickle."""
        stack = self.stack
        if step in self.LITERALS:
            stack.append(argument)
        elif step in self.CONSTANTS:
            stack.append(self.CONSTANTS[step])
        elif step in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif step == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif step in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif step == "MARK":
            self.marks.append(len(stack))
        elif step in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if step == "EMPTY_LIST" else {})
        elif step in ("TUPLE", "LIST", "DICT"):
            self.close(step)
        elif step in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.last(int(step[-1]))))
        elif step in ("APPEND", "APPENDS"):
            items = self.last(1) if step == "APPEND" else self.since_mark()
            _expect(list, stack[-1]).extend(items)
        elif step in ("SETITEM", "SETITEMS"):
            items = self.last(2) if step == "SETITEM" else self.since_mark()
            _expect(dict, stack[-1]).update(_pairs(items))
        elif step in ("GLOBAL", "STACK_GLOBAL"):
            module, name = argument.split(" ", 1) if step == "GLOBAL" else self.last(2)
            stack.append(_named(Name(_expect(str, module), _expect(str, name))))
        elif step == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif step in ("REDUCE", "NEWOBJ"):
            what, arguments = self.last(2)
            stack.append(_make(_expect(Name, what), _expect(tuple, arguments)))
        elif step == "BUILD":
            self.build(stack.pop(), stack[-1])
        elif step not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it uses the step {step}, which no tensors need")

    def last(self, count: int) -> list[Any]:
        """Take ``count`` values from the stack."""
        if len(self.stack) < count:
            raise ValueError("it takes more than it has put down")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def close(self, step: str) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items) if step == "TUPLE" else items if step == "LIST" else dict(_pairs(items)))

    def storage(self, described: Any) -> Storage:
        """The storage of ``("storage", type, key, device, elements)``; older files add what part of it is meant."""
        what, kind, key, _, size, *view = _expect(tuple, described)
        known = isinstance(kind, Name) and kind.module in ("torch", "torch.storage") and kind.name in _DTYPES
        if what != "storage" or not known or any(part is not None for part in view):
            raise ValueError("it describes a storage of an unknown kind")
        return self.storage_of(_expect(str, key), _DTYPES[kind.name], _count(size))

    @staticmethod
    def build(state: Any, target: Any) -> None:
        """Give an object its state. Containers have none that matters: ``state_dict()`` adds versions of modules."""
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            raise ValueError(f"it gives attributes to a {type(target).__name__}")


def _expect(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("it has something else where a size belongs")
    return value


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    """Keys and values that alternate. Keys are simple: the hash of tuples in tuples may take for ever."""
    keys, values = items[::2], items[1::2]
    for key in keys:
        if not isinstance(key, str | int | float | bool | None):
            raise ValueError(f"it has a {type(key).__name__} as a key")
    return list(zip(keys, values, strict=True))


# ---------------------------------------------------------------------------------------------- what a pickle names


def _named(name: Name) -> Any:
    """The name itself, if it is one of those that are known; dtypes are what they name."""
    if name.module == "torch" and name.name in _DTYPE_NAMES:
        return _DTYPE_NAMES[name.name]
    is_storage = name.module in ("torch", "torch.storage") and name.name in _DTYPES
    if not (is_storage or name in _MAKERS or f"{name.module}.".startswith(RECORDED)):
        raise ValueError(f"it wants to use {name}, which no tensors need")
    return name


def _make(name: Name, arguments: tuple[Any, ...]) -> Any:
    if f"{name.module}.".startswith(RECORDED):
        return Record(name)
    if name not in _MAKERS:
        raise ValueError(f"it wants to call {name}")
    return _MAKERS[name](*arguments)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None, bits: Any = None
) -> Tensor:
    """A view of a storage; nothing of it lies outside."""
    return _view(_expect(Storage, storage), offset, size, stride, bits)


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, bits: Any = None
) -> Tensor:
    """The same for dtypes without a storage of their own."""
    data = _expect(Storage, storage).data
    _expect(torch.dtype, dtype)
    return _view(Storage(data, dtype, data.nbytes() // dtype.itemsize), offset, size, stride, bits)


def _view(storage: Storage, offset: Any, size: Any, stride: Any, bits: Any) -> Tensor:
    sizes, steps = [_count(value) for value in tuple(size)], [_count(value) for value in tuple(stride)]
    if len(sizes) != len(steps) or len(sizes) > DEPTH:
        raise ValueError(f"it describes a tensor with {len(sizes)} sizes and {len(steps)} strides")
    if bits:
        raise ValueError("it describes a tensor that is the conjugate of its storage")
    count = math.prod(sizes)
    end = _count(offset) + (1 + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True)) if count else 0)
    if end > storage.size or count > storage.size + SPREAD:
        raise ValueError(f"it describes a tensor of {count:,} elements that reaches beyond its {storage.size:,}")
    return torch.empty(0, dtype=storage.dtype).set_(storage.data, offset, sizes, steps)


def _ordered(items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict, as a dict: both keep the order."""
    return dict(_pairs([part for pair in _expect(list, items or []) for part in pair]))


_MAKERS: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): _ordered,
    Name("collections", "defaultdict"): lambda kind=None: {},
    Name("collections", "Counter"): lambda counts=None: _expect(dict, counts or {}),
    Name("builtins", "dict"): lambda: {},  # named by every defaultdict of them
    Name("__builtin__", "dict"): lambda: {},
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    Name("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: _expect(Tensor, data),
    Name("torch", "Size"): lambda sizes: torch.Size([_count(size) for size in _expect(tuple, sizes)]),
    Name("torch", "device"): lambda kind, index=0: f"{_expect(str, kind)}:{_count(index)}",
    Name("torch.jit._pickle", "restore_type_tag"): lambda value, kind: value,
    Name("torch.jit._pickle", "build_intlist"): lambda items: _expect(list, items),
    Name("torch.jit._pickle", "build_boollist"): lambda items: _expect(list, items),
    Name("torch.jit._pickle", "build_doublelist"): lambda items: _expect(list, items),
    Name("torch.jit._pickle", "build_tensorlist"): lambda items: _expect(list, items),
}


# ---------------------------------------------------------------------------------------------- TorchScript


class _Class(NamedTuple):
    """What the program of an archive says of a class, for a state dict."""

    is_module: bool
    parameters: set[str]
    buffers: set[str]


def _state_dict(root: Any, source: Callable[[str], str]) -> dict[str, Tensor]:
    """Parameters and buffers of a scripted module by name, in the order of ``torch.jit.load(...).state_dict()``.

    Args:
        root: the record of the module.
        source: finds a file of the program by its path.
    """
    files: dict[str, dict[str, _Class]] = {}
    visits = 0

    def class_of(value: Any) -> _Class | None:
        if not isinstance(value, Record):
            return None
        path = f"{value.name.module.replace('.', '/')}.py"
        if path not in files:
            files[path] = _classes(source(path))
        return files[path].get(value.name.name)

    def visit(module: Record, kind: _Class, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        nonlocal visits
        if not isinstance(module.state, dict):
            raise ValueError("it has a module that restores itself with a program of its own")
        visits += 1 + len(module.state)
        if depth > DEPTH or visits > VALUES:
            raise ValueError("its modules hold each other without an end")
        for names in (kind.parameters, kind.buffers):
            for name, value in module.state.items():
                if name in names and isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
        for name, value in module.state.items():
            inner = class_of(value)
            if inner is not None and inner.is_module:
                yield from visit(value, inner, f"{prefix}{name}.", depth + 1)

    kind = class_of(root)
    if kind is None or not kind.is_module:
        raise ValueError("expected a scripted module, found something else")
    return dict(visit(root, kind, "", 0))


def _classes(text: str) -> dict[str, _Class]:
    """The classes that a file of a TorchScript program defines: it writes each thing on a line of its own."""
    found: dict[str, _Class] = {}
    current = _Class(False, set(), set())
    for line in text.splitlines():
        if match := re.match(r"class (\w+)(\(Module\))?", line):
            current = found[match[1]] = _Class(match[2] is not None, set(), set())
        elif match := re.fullmatch(r"  __(parameters|buffers)__ = \[(.*)\]", line):
            getattr(current, match[1]).update(re.findall(r'"([^"]*)"', match[2]))
        elif re.match(r"  def __setstate__\(", line) and current.is_module:
            raise ValueError("it has a module that restores itself with a program of its own")
    return found
