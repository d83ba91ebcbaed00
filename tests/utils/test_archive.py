"""Files of PyTorch, read without running them: of good ones what torch reads, of bad ones a ValueError."""

import contextlib
import io
import os
import pickle
import random
import re
import struct
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from anprompt.utils import archive
from anprompt.utils.archive import Record, read_torch_file
from tests.helpers.archives import (
    Call,
    data_range,
    dict_with,
    flip,
    name,
    number,
    numbers,
    pickled,
    records_of,
    tensor,
    text,
    write_archive,
)

TWO_FLOATS = struct.pack("<2f", 1, 2)


def assert_same_tensors(found, expected):
    """Names in order, types, layout, bits, and who shares memory with whom."""
    assert list(found) == list(expected)
    for key, one in found.items():
        other = expected[key]
        assert (one.dtype, one.shape, one.stride(), one.device) == (
            other.dtype,
            other.shape,
            other.stride(),
            other.device,
        )
        assert one.storage_offset() == other.storage_offset()
        assert bytes(one.untyped_storage()) == bytes(other.untyped_storage()), key
    assert shared(found) == shared(expected)


def shared(tensors):
    return [[one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() for one in tensors.values()]
            for other in tensors.values()]  # fmt: skip


# ---------------------------------------------------------------------------------------------- TorchScript


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))

    def forward(self, x):
        return self.norm(self.linear(x))


class Whole(nn.Module):
    """All that may stand in a module, in a mixed order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        table = torch.randn(4, 6)
        self.register_buffer("flag", torch.tensor(True))
        self.part = Part()
        self.register_buffer("counts", torch.arange(5), persistent=False)
        self.columns = nn.Parameter(table.t())
        self.corner = nn.Parameter(table[1:3, 2:5])
        self.halves = nn.Parameter(torch.randn(3).half())
        self.register_buffer("rough", torch.randn(3).bfloat16())
        self.register_buffer("nothing", None)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("repeated", torch.ones(1).expand(4))
        self.register_buffer("nan", torch.tensor([float("nan"), -0.0, float("inf")]))
        self.scale = nn.Parameter(torch.tensor(4.6, dtype=torch.float64))
        self.again = self.part
        self.attribute = torch.ones(2)  # neither parameter nor buffer
        self.text, self.numbers, self.weights = "a", [1, 2], [torch.ones(1)]

    def forward(self, x):
        return self.part(x) * self.attribute.sum()


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.ModuleList([nn.Linear(2, 2) for _ in range(12)])

    def forward(self, x):
        for item in self.items:
            x = item(x)
        return x


def save_script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but it is the format that OpenAI published
        torch.jit.script(module).save(str(path))
    return path


@pytest.mark.parametrize("module", [Whole, Part, Wide])
def test_a_torchscript_archive_gives_the_state_dict_of_torch(tmp_path, module):
    path = save_script(module(), tmp_path / "script.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(str(path), map_location="cpu").state_dict()
    assert_same_tensors(read_torch_file(path), {key: value.detach() for key, value in expected.items()})


def test_a_traced_module_in_half_precision_too(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Part().bfloat16().eval(), torch.ones(1, 3).bfloat16()).save(str(tmp_path / "trace.pt"))
        expected = torch.jit.load(str(tmp_path / "trace.pt")).state_dict()
    assert_same_tensors(
        read_torch_file(tmp_path / "trace.pt"), {key: value.detach() for key, value in expected.items()}
    )


def test_the_program_of_an_archive_is_not_run(tmp_path, monkeypatch):
    """Nor handed to anything that would."""
    path = save_script(Part(), tmp_path / "script.pt")
    torch.save({"x": torch.ones(2)}, tmp_path / "state.pt")
    for place in ("torch.load", "torch.jit.load", "torch._C.import_ir_module", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("called"))
    assert len(read_torch_file(path)) == 8
    assert read_torch_file(tmp_path / "state.pt")["x"].tolist() == [1, 1]


def test_a_module_that_restores_itself_is_refused(tmp_path):
    """Its state dict would be what its program makes of the tensors."""

    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        @torch.jit.export
        def __getstate__(self):
            return (2 * self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            self.weight = state[0]
            self.training = state[1]

        def forward(self):
            return self.weight

    path = save_script(Packs(), tmp_path / "packs.pt")
    with pytest.raises(ValueError, match="restores itself with a program of its own"):
        read_torch_file(path)


# ---------------------------------------------------------------------------------------------- torch.save

CONTENT = {
    "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3).t(), b=torch.ones(2).half(), c=torch.tensor(3)),
    "complex": torch.tensor([1 + 2j]),
    "small": torch.tensor([-1, 2], dtype=torch.int8),
    "view": torch.arange(10, dtype=torch.int16)[2:8:3],
    "nested": [1, (2.5, None, True), {"x": -(2**40), 3: "ä"}],
    "rng": (3, tuple(range(700)), None),
    "size": torch.Size([1, 2]),
    "dtype": torch.bfloat16,
}


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "older stream"])
def test_a_file_of_torch_save_gives_what_torch_reads(tmp_path, as_zip):
    torch.save(CONTENT, tmp_path / "file.pt", _use_new_zipfile_serialization=as_zip)
    found, expected = read_torch_file(tmp_path / "file.pt"), torch.load(tmp_path / "file.pt", weights_only=True)
    plain = ("nested", "rng", "size", "dtype")
    assert {key: found.pop(key) for key in plain} == {key: expected.pop(key) for key in plain}
    assert_same_tensors(dict(found.pop("state_dict")), dict(expected.pop("state_dict")))
    assert_same_tensors(found, expected)


def test_parameters_come_as_tensors_and_newer_types_too(tmp_path):
    content = {
        "p": nn.Parameter(torch.ones(2)),
        "u": torch.ones(3).to(torch.uint16),
        "f": torch.ones(1).to(torch.float8_e5m2),
    }
    torch.save(content, tmp_path / "file.pt")
    found = read_torch_file(tmp_path / "file.pt")
    assert type(found["p"]) is torch.Tensor and not found["p"].requires_grad
    assert_same_tensors(found, {key: value.detach() for key, value in content.items()})


def test_objects_of_optimisers_become_records(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    torch.save({"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3)}, tmp_path / "old.pt")
    record = read_torch_file(tmp_path / "old.pt")["scheduler"]
    assert isinstance(record, Record) and str(record.name) == "torch.optim.lr_scheduler.StepLR"
    assert record.state["step_size"] == 3


def test_an_archive_that_was_packed_again_is_read(tmp_path):
    torch.save(CONTENT["state_dict"], tmp_path / "file.pt")
    write_archive(tmp_path / "packed.pt", records_of(tmp_path / "file.pt"), packed=True)
    assert_same_tensors(read_torch_file(tmp_path / "packed.pt"), dict(CONTENT["state_dict"]))


def test_an_archive_written_without_checksums_is_read(tmp_path):
    """``torch.serialization.set_crc32_options(False)``: zeros stand for all of them."""
    torch.save(CONTENT["state_dict"], tmp_path / "file.pt")
    content = bytearray((tmp_path / "file.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "file.pt") as known:
        for _ in known.infolist():
            place = content.index(b"PK\x01\x02")
            content[place : place + 4] = b"????"
            content[place + 16 : place + 20] = b"\0\0\0\0"
    (tmp_path / "none.pt").write_bytes(content.replace(b"????", b"PK\x01\x02"))
    assert zipfile.ZipFile(tmp_path / "none.pt").testzip() is not None
    assert_same_tensors(read_torch_file(tmp_path / "none.pt"), dict(CONTENT["state_dict"]))


def test_an_archive_of_a_machine_with_the_other_order_of_bytes_is_read(tmp_path):
    records = {"data.pkl": dict_with(tensor()), "data/0": struct.pack(">2f", 1, 2), "byteorder": b"big"}
    found = read_torch_file(write_archive(tmp_path / "big.pt", records))
    assert found["x"].tolist() == [1, 2]


# ---------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["zip", "older stream", "script"])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    if kind == "script":
        save_script(Part(), whole)
    else:
        torch.save(CONTENT, whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    for size in {*range(0, len(content), 97), len(content) - 1}:
        cut.write_bytes(content[:size])
        with pytest.raises(ValueError):
            read_torch_file(cut)


def test_no_flipped_bit_in_an_archive_changes_what_is_read(tmp_path):
    """Those in the records are all noticed. Those in between fill gaps or tell the time, or are noticed."""
    whole, damaged = tmp_path / "whole.pt", tmp_path / "damaged.pt"
    torch.save({"x": torch.arange(40.0), "y": "text"}, whole)
    content, rng = whole.read_bytes(), random.Random(0)
    inside = {place for record in records_of(whole) for place in data_range(whole, record)}
    for place in [*rng.sample(range(len(content)), 400), *rng.sample(sorted(inside), 200)]:
        damaged.write_bytes(content)
        flip(damaged, place, rng.randrange(8))
        try:
            found = read_torch_file(damaged)
        except ValueError:
            continue
        assert place not in inside
        assert found["y"] == "text" and torch.equal(found["x"], torch.arange(40.0))


# ---------------------------------------------------------------------------------------------- hostile files


def nested(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def doubled(times):
    """A list of two references to a list of two references to ... an empty one."""
    steps = b"\x80\x02]"
    for index in range(times):
        steps += b"q" + bytes([index]) + b"](" + 2 * (b"h" + bytes([index])) + b"e"
    return steps + b"."


def tuples_as_key(times):
    """A key whose hash takes 2 ** times steps."""
    steps = b")"
    for index in range(times):
        steps += b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86"
    return b"\x80\x02}" + steps + b"Ns."


def cycle():
    return b"\x80\x02]q\x00h\x00a."


PICKLES = {
    "calls a program": (pickled(Call(os.system, "touch RAN")), "it wants to use (posix|nt).system"),
    "calls eval": (pickled(Call(eval, "open('RAN', 'w')"), protocol=4), "it wants to use builtins.eval"),
    "opens a file": (pickled(Call(open, "RAN", "w")), "it wants to use (_?io|builtins).open"),
    "calls torch.load": (pickled(Call(torch.load, "RAN")), r"it wants to use torch.serialization.load"),
    "calls torch.hub": (pickled(Call(torch.hub.load, "RAN", "x")), r"it wants to use torch.hub.load"),
    "gets an attribute": (pickled(Call(getattr, {}, "pop")), "it wants to use builtins.getattr|__builtin__.getattr"),
    "imports a module lazily": (dict_with(name("torch onnx")), "it wants to use torch.onnx"),
    "uses a class of the user": (dict_with(b"(cmymodule\nThing\n)o"), "which no tensors need|uses the step OBJ"),
    "calls a value": (b"\x80\x02" + text("eval") + b")R.", "a str where a Name belongs"),
    "calls a record": (b"\x80\x02" + name("torch.optim SGD") + b")R)R.", "a Record where a Name belongs"),
    "calls with no tuple": (b"\x80\x02" + name("collections OrderedDict") + b"]R.", "a list where a tuple belongs"),
    "gives attributes to a function": (
        b"\x80\x02" + name("torch._utils _rebuild_tensor_v2") + b"}b.",
        "it gives attributes to a Name",
    ),
    "gives attributes to a tensor": (dict_with(tensor() + b"}b"), "it gives attributes to a Tensor"),
    "an extension code": (b"\x80\x02\x82\x01.", "uses the step EXT1"),
    "takes from nothing": (b"\x80\x02\x86.", "takes more than it has"),
    "forgets to mark": (b"\x80\x02t.", "is damaged"),
    "remembers nothing": (b"\x80\x02h\x07.", "is damaged"),
    "does not end": (b"\x80\x02]", "pickle exhausted"),
    "is no pickle": (b"PNG", "newline"),
    "is empty": (b"", "pickle exhausted"),
    "a key whose hash takes for ever": (tuples_as_key(60), "a tuple as a key"),
    "contains itself": (cycle(), "more than 60 deep"),
    "is deep": (nested(100_000), "more than 60 deep"),
    "is wide by references": (doubled(50), "holds more than 1,000,000 values"),
    "takes many steps": (b"\x80\x02" + b"N" * 1_000_010 + b".", "more than 1,000,000 steps"),
    "a storage of another kind": (dict_with(tensor(kind="torch QInt8Storage")), "it wants to use torch.QInt8Storage"),
    "no storage": (dict_with(text("storage") + b"Q"), "a str where a tuple belongs"),
    "a tensor beyond its storage": (dict_with(tensor(size=(3,))), "reaches beyond its 2"),
    "a tensor that begins beyond it": (dict_with(tensor(offset=2, size=(1,))), "reaches beyond its 2"),
    "a tensor with a long stride": (dict_with(tensor(size=(2, 1), stride=(2, 9))), "reaches beyond its 2"),
    "a tensor with a negative stride": (dict_with(tensor(stride=(-1,))), "where a size belongs"),
    "a tensor before its storage": (dict_with(tensor(offset=-1)), "where a size belongs"),
    "a tensor of a huge size": (dict_with(tensor(size=(2**60,), stride=(0,))), "reaches beyond its 2"),
    "more strides than sizes": (dict_with(tensor(stride=(1, 1))), "1 sizes and 2 strides"),
    "a size that is true": (dict_with(tensor().replace(numbers((2,)), b"(\x88t")), "where a size belongs"),
    "a storage longer than its record": (dict_with(tensor(elements=2**40)), "has 8 bytes, not 1,099,511,627,776 of"),
    "a storage shorter than its record": (dict_with(tensor(elements=1, size=(1,))), "has 8 bytes, not 1 of float32"),
    "a record that is missing": (dict_with(tensor(key="1")), "the record data/1 is missing"),
    "a record elsewhere": (dict_with(tensor(key="../../data/0")), "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_a_hostile_pickle_is_one_clear_error_and_nothing_runs(tmp_path, monkeypatch, kind):
    content, message = PICKLES[kind]
    monkeypatch.chdir(tmp_path)
    records = {"data.pkl": content, "data/0": TWO_FLOATS}
    as_script = {**records, "constants.pkl": pickled(()), "code/__torch__.py": b""}
    for path in (write_archive(tmp_path / "a.pt", records), write_archive(tmp_path / "b.pt", as_script)):
        with pytest.raises(ValueError) as error:
            read_torch_file(path)
        reason = str(error.value)
        assert "\n" not in reason and len(reason) < 200
        assert re.search(message, reason) or (path.name == "b.pt" and "expected a scripted module" in reason), reason
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_the_pickles_above_fail_for_what_is_wrong_with_them(tmp_path):
    records = {"data.pkl": dict_with(tensor()), "data/0": TWO_FLOATS}
    assert read_torch_file(write_archive(tmp_path / "a.pt", records))["x"].tolist() == [1, 2]


GOOD = {"data.pkl": dict_with(tensor()), "data/0": TWO_FLOATS, "version": b"3"}


def rewrite_central(path, field, value, record="data/0"):
    """Change a field of a record in the table of contents: its place in the entry and its format."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(record.encode()))
    place, layout = field
    struct.pack_into(layout, content, entry + place, value)
    path.write_bytes(content)


def twice(path):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data/0", struct.pack("<2f", 3, 4))


def overlapping(path):
    content = path.read_bytes()
    first = struct.unpack_from("<I", content, content.index(b"PK\x01\x02") + 42)[0]
    rewrite_central(path, (42, "<I"), first)


def bomb(path):
    write_archive(path, {**GOOD, "data/1": bytes(2**25)}, packed=True)


def packed_twice_over(path):
    """Many records of zeros, each of which might do."""
    write_archive(path, {**GOOD, **{f"data/{key}": bytes(2**21) for key in range(1, 20)}}, packed=True)


FLAGS, METHOD, CRC, PACKED, UNPACKED, OFFSET = (8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I")
ARCHIVES = {
    "a record that is there twice": (twice, "data/0 is there twice"),
    "records that overlap": (overlapping, "overlap"),
    "few bytes that unpack to many": (bomb, "bytes claim to hold"),
    "many records that unpack to many": (packed_twice_over, "bytes claim to hold"),
    "an encrypted record": (lambda path: rewrite_central(path, FLAGS, 1), "data/0 is encrypted"),
    "a packing that PyTorch does not know": (lambda path: rewrite_central(path, METHOD, 14), "does not know"),
    "another checksum": (lambda path: rewrite_central(path, CRC, 1), "the record data/0 is damaged"),
    "a size that is too large": (lambda path: rewrite_central(path, UNPACKED, 2**31), "states two sizes"),
    "a packed size that is too large": (lambda path: rewrite_central(path, PACKED, 2**31), "states two sizes"),
    "a place behind the end": (lambda path: rewrite_central(path, OFFSET, 2**31), "beyond the end"),
    "no content": (lambda path: write_archive(path, {"data/0": TWO_FLOATS}), "one record NAME/data.pkl, found 0"),
    "no record": (lambda path: write_archive(path, {}), "neither a zip archive nor an older file"),
    "another kind of zip archive": (lambda path: write_archive(path, {"word/document.xml": b"<x/>"}), "found 0"),
    "a large pickle": (lambda path: write_archive(path, {"data.pkl": bytes(2**26 + 1)}), "expected at most 67,108,864"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_archive_is_one_clear_error(tmp_path, kind):
    damage, message = ARCHIVES[kind]
    path = write_archive(tmp_path / "a.pt", GOOD)
    damage(path)
    with pytest.raises(ValueError, match=message) as error:
        read_torch_file(path)
    assert "\n" not in str(error.value)


def test_two_contents_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for root in ("one", "other"):
            archive.writestr(f"{root}/data.pkl", b"N.")
    with pytest.raises(ValueError, match="one record NAME/data.pkl, found 2"):
        read_torch_file(path)


def test_a_packed_record_that_unpacks_to_more_or_less_than_it_says_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    for size in (7, 9):
        write_archive(path, {**GOOD, "version": b"12345678"}, packed=True)
        rewrite_central(path, UNPACKED, size, "version")
        with pytest.raises(ValueError, match="damaged|shorter|longer"):
            read_torch_file(path)


def older_stream(content, keys=("0",), count=2, magic=archive.LEGACY_MAGIC, data=TWO_FLOATS, little=True):
    parts = [magic, archive.LEGACY_PROTOCOL, {"little_endian": little}]
    begin = b"".join(pickle.dumps(part, 2) for part in parts)
    return begin + content + pickle.dumps(list(keys), 2) + struct.pack("<q", count) + data


VIEWED = dict_with(tensor().replace(number(2) + b"tQ", number(2) + b"NtQ"))  # the older description has one part more


def test_the_older_stream_above_is_read(tmp_path):
    (tmp_path / "a.pt").write_bytes(older_stream(VIEWED))
    assert read_torch_file(tmp_path / "a.pt")["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (older_stream(VIEWED, magic=1), "no file of torch.save"),
        (older_stream(VIEWED, keys=("1",)), "not those that the content needs"),
        (older_stream(VIEWED, keys=()), "not those that the content needs"),
        (older_stream(VIEWED, count=3), "storage 0 is cut short or has not 2 elements of float32"),
        (older_stream(VIEWED, data=TWO_FLOATS[:7]), "storage 0 is cut short"),
        (older_stream(VIEWED, little=False), "another order of bytes"),
        (older_stream(dict_with(tensor(elements=2**40))), "claim to hold"),
        (older_stream(dict_with(tensor(size=(3,)))), "reaches beyond its 2"),
        (older_stream(pickled(Call(os.system, "touch RAN"))), "it wants to use"),
        (pickled(Call(os.system, "touch RAN")), "it wants to use"),
        (b"", "neither a zip archive nor an older file"),
        (b"\x00" * 1000, "neither a zip archive nor an older file"),
        (b"ustar" * 200, "neither a zip archive nor an older file"),
        (b"\x80\x02ustar" * 200, "damaged"),
    ],
)
def test_a_hostile_older_stream_is_one_clear_error(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_torch_file(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


def module(attributes: bytes, kind="__torch__ M") -> bytes:
    """Steps that make a scripted module."""
    return name(kind) + b")\x81}(" + attributes + b"ub"


PROGRAM = b'class M(Module):\n  __parameters__ = ["x", ]\n  __buffers__ = []\n'


@pytest.mark.parametrize(
    ("content", "program", "message"),
    [
        (b"\x80\x02" + name("__torch__ M") + b")\x81q\x00}" + text("m") + b"h\x00sb.", PROGRAM, "hold each other"),
        (b"\x80\x02" + module(text("x") + tensor()) + b".", b"", "expected a scripted module"),
        (b"\x80\x02" + module(text("x") + tensor()) + b".", b"\xff\xfe", "decode"),
        (b"\x80\x02" + name("__torch__ M") + b")\x81]b.", PROGRAM, "restores itself"),
        (b"\x80\x02]" + module(text("x") + tensor()) + b"a.", PROGRAM, "expected a scripted module"),
    ],
)
def test_a_hostile_script_is_one_clear_error(tmp_path, content, program, message):
    records = {"data.pkl": content, "data/0": TWO_FLOATS, "constants.pkl": pickled(()), "code/__torch__.py": program}
    with pytest.raises(ValueError, match=message):
        read_torch_file(write_archive(tmp_path / "a.pt", records))


def test_the_scripts_above_fail_for_what_is_wrong_with_them(tmp_path):
    content = b"\x80\x02" + module(text("x") + tensor() + text("y") + tensor()) + b"."
    records = {"data.pkl": content, "data/0": TWO_FLOATS, "constants.pkl": pickled(()), "code/__torch__.py": PROGRAM}
    found = read_torch_file(write_archive(tmp_path / "a.pt", records))
    assert {key: value.tolist() for key, value in found.items()} == {"x": [1, 2]}


def test_modules_that_share_their_parts_many_times_over_are_refused(tmp_path):
    """30 modules, each with the one before it twice: 2 ** 30 names."""
    content = b"\x80\x02" + module(text("x") + tensor())
    for index in range(30):
        again = b"h" + bytes([index])
        content += b"q" + bytes([index]) + module(text("a") + again + text("b") + again)
    records = {"data.pkl": content + b".", "data/0": TWO_FLOATS, "constants.pkl": b"N.", "code/__torch__.py": PROGRAM}
    with pytest.raises(ValueError, match="hold each other without an end"):
        read_torch_file(write_archive(tmp_path / "a.pt", records))


def test_random_changes_of_a_pickle_raise_nothing_but_the_one_error(tmp_path):
    torch.save(CONTENT, tmp_path / "file.pt")
    records, rng = records_of(tmp_path / "file.pt"), random.Random(0)
    for _ in range(1500):
        content = bytearray(records["data.pkl"])
        for _ in range(rng.choice((1, 1, 3, 10))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with contextlib.suppress(ValueError):
            archive.unpickle(
                io.BytesIO(bytes(content)),
                lambda key, dtype, size: archive.Storage(torch.UntypedStorage(64 * dtype.itemsize), dtype, 64),
            )
