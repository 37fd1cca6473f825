"""Files of `torch.save`, written without torch.

A pickle of protocol 2 is built by hand, instruction by instruction, since it names classes that are not here:

    c MODULE \\n NAME \\n   a name                      ( .. t   a tuple of everything after the mark
    NAME ARGUMENTS R      a call                      } ( .. u   a dict, filled with keys and values
    NAME ARGUMENTS \\x81   an object, STATE b fills it   ] ( .. e   a list, filled
    IDENTITY Q            the object of a persistent id; q N stores an object and h N loads it

A tensor is the call torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks), and its
storage is the persistent id ('storage', type, key, device, count). The zip format keeps this pickle in NAME/data.pkl
and the bytes of a storage in NAME/data/KEY, uncompressed; the legacy format has five pickles in a row (magic number,
version, facts about the machine, object, storage keys), then for each key its count in 8 bytes and its bytes. There the
identity of a storage ends in a view (None), and ('module', class, file, source) represents the class of a module.
"""

import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
TYPES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
    "bfloat16": "BFloat16",
}


@dataclass(frozen=True)
class Name:
    """A module and a name, separated by a blank."""

    text: str


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple = ()
    state: Any = None


@dataclass(frozen=True)
class New:
    """An object: `name`.__new__(), with `state`. The class of a module is a persistent id in the legacy format."""

    name: str
    state: Any
    module: bool = False


@dataclass(frozen=True)
class Persistent:
    identity: tuple


@dataclass(eq=False)
class Shared:
    """One object that occurs in several places."""

    value: Any


@dataclass(eq=False)
class Numbers:
    """A tensor: a view of `array`, which is written once for all its views."""

    array: np.ndarray
    offset: int = 0
    shape: tuple | None = None
    strides: tuple | None = None
    type: str | None = None


@dataclass
class Writer:
    legacy: bool
    storages: dict[int, tuple[str, np.ndarray]] = field(default_factory=dict)
    memo: dict[int, int] = field(default_factory=dict)

    def pickle(self, tree: Any) -> bytes:
        return b"\x80\x02" + self.code(tree) + b"."

    def code(self, tree: Any) -> bytes:
        if tree is None or tree is True or tree is False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[tree]
        if isinstance(tree, int):
            data = tree.to_bytes(tree.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(tree, float):
            return b"G" + struct.pack(">d", tree)
        if isinstance(tree, str):
            return b"X" + struct.pack("<I", len(tree.encode())) + tree.encode()
        if isinstance(tree, Name):
            return b"c" + tree.text.replace(" ", "\n").encode() + b"\n"
        if isinstance(tree, tuple):
            return b"(" + b"".join(map(self.code, tree)) + b"t"
        if isinstance(tree, list):
            return b"](" + b"".join(map(self.code, tree)) + b"e"
        if isinstance(tree, dict):
            return b"}(" + b"".join(self.code(key) + self.code(value) for key, value in tree.items()) + b"u"
        if isinstance(tree, Call):
            made = self.code(Name(tree.name)) + self.code(tree.arguments) + b"R"
            return made if tree.state is None else made + self.code(tree.state) + b"b"
        if isinstance(tree, New):
            kind = Name(tree.name)
            if self.legacy and tree.module:
                kind = Persistent(("module", kind, "module.py", "class Module: ..."))
            return self.code(kind) + b")\x81" + self.code(tree.state) + b"b"
        if isinstance(tree, Shared):
            if (place := self.memo.get(id(tree))) is not None:
                return b"h" + bytes([place])
            place = self.memo[id(tree)] = len(self.memo)
            return self.code(tree.value) + b"q" + bytes([place])
        if isinstance(tree, Persistent):
            return self.code(tree.identity) + b"Q"
        return self.tensor(tree if isinstance(tree, Numbers) else Numbers(tree))

    def tensor(self, view: Numbers) -> bytes:
        array, kind = view.array, view.type or str(view.array.dtype)
        key, _ = self.storages.setdefault(id(array), (str(len(self.storages)), np.asarray(array, order="C")))
        strides = tuple(stride // array.itemsize for stride in np.asarray(array, order="C").strides)
        storage = ("storage", Name(f"torch {TYPES[kind]}Storage"), key, "cpu", array.size)
        return self.code(
            Call(
                "torch._utils _rebuild_tensor_v2",
                (
                    Persistent((*storage, None) if self.legacy else storage),
                    view.offset,
                    array.shape if view.shape is None else view.shape,
                    strides if view.strides is None else view.strides,
                    False,
                    Call("collections OrderedDict"),
                ),
            )
        )


def write(file, tree: Any, legacy: bool) -> None:
    """Write `tree` of dicts, lists, tuples, strings, numbers, arrays (tensors) and the classes above."""
    (write_legacy if legacy else write_zip)(file, tree)


def write_zip(file, tree: Any, byteorder: str = "little", compression: int = zipfile.ZIP_STORED) -> None:
    writer = Writer(legacy=False)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", writer.pickle(tree))
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr("archive/version", "3\n")
        for key, array in writer.storages.values():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_legacy(file, tree: Any, version: int = VERSION, little_endian: bool = True) -> None:
    writer = Writer(legacy=True)
    machine = {
        "protocol_version": VERSION,
        "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [writer.pickle(MAGIC), writer.pickle(version), writer.pickle(machine), writer.pickle(tree)]
    storages = sorted(writer.storages.values(), key=lambda storage: storage[0])
    parts.append(writer.pickle([key for key, _ in storages]))
    for _, array in storages:
        parts += [array.size.to_bytes(8, "little"), array.tobytes()]
    file.write_bytes(b"".join(parts))
