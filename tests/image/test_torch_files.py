"""Files of torch without torch: every type and view, both formats, and one-line errors for broken files."""

import zipfile

import numpy as np
import pytest

from tests.image.torch_writer import Call, Name, New, Numbers, Persistent, Writer, write, write_legacy, write_zip
from vilg.errors import UserError
from vilg.image.importing.pickles import Record
from vilg.image.importing.torch_files import Tensor, opened

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)


def nothing(name):
    return False


def refused(file, message, known=nothing):
    """Opening the file and reading its tensors raises a one-line error that names the file."""
    with pytest.raises(UserError, match=message) as caught, opened(file, known) as tree:
        for value in tree.values():
            value.array()
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{file}: ")


@FORMATS
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_every_type_becomes_fp32(tmp_path, legacy, dtype):
    array = np.array([[0, 1, 2], [3, 4, 100]]).astype(dtype)
    write(tmp_path / "x", {"a": array}, legacy)
    with opened(tmp_path / "x", nothing) as tree:
        got = tree["a"].array()
    assert got.dtype == np.float32 and np.array_equal(got, array.astype(np.float32))


@FORMATS
def test_bfloat16_is_read_as_the_upper_half_of_fp32(tmp_path, legacy):
    halves = (BASE.view(np.uint32) >> 16).astype(np.uint16)
    write(tmp_path / "x", {"a": Numbers(halves, type="bfloat16")}, legacy)
    with opened(tmp_path / "x", nothing) as tree:
        assert np.array_equal(tree["a"].array(), BASE)  # small integers are exact in it


@FORMATS
def test_views_of_one_storage(tmp_path, legacy):
    tree = {
        "all": BASE,
        "transposed": Numbers(BASE, 0, (6, 4), (1, 6)),
        "part": Numbers(BASE, 8, (2, 3), (6, 1)),
        "scalar": Numbers(BASE, 5, (), ()),
        "spread": Numbers(BASE, 3, (2, 2), (0, 1)),
        "empty": Numbers(BASE, 24, (0, 3), (3, 1)),
        "parameter": Call("torch._utils _rebuild_parameter", (BASE, True, Call("collections OrderedDict"))),
    }
    write(tmp_path / "x", tree, legacy)
    with opened(tmp_path / "x", nothing) as got:
        arrays = {name: value.array() for name, value in got.items()}
    wanted = {
        "all": BASE,
        "transposed": BASE.T,
        "part": BASE[1:3, 2:5],
        "scalar": BASE[0, 5],
        "parameter": BASE,
        "spread": np.broadcast_to(BASE[0, 3:5], (2, 2)),
        "empty": np.zeros((0, 3)),
    }
    assert all(np.array_equal(arrays[name], wanted[name]) and arrays[name].shape == wanted[name].shape for name in tree)


@FORMATS
def test_metadata_that_torch_stores_with_weights_is_ignored(tmp_path, legacy):
    ordered = Call("collections OrderedDict", (), {"_metadata": {"": {"version": 1}}})
    write(tmp_path / "x", {"state": ordered, "list": [1, -300, 2**40, 1.5, "é", None, True, (1, 2)]}, legacy)
    with opened(tmp_path / "x", nothing) as tree:
        assert tree == {"state": {}, "list": [1, -300, 2**40, 1.5, "é", None, True, (1, 2)]}


@FORMATS
def test_a_pickled_module_becomes_records(tmp_path, legacy):
    inner = New("pkg.layers Linear", {"_parameters": {"w": BASE}, "_modules": {}}, module=True)
    write(tmp_path / "x", New("pkg Net", {"_modules": {"a": inner}, "n": 3}, module=True), legacy)
    with opened(tmp_path / "x", {"pkg.Net", "pkg.layers.Linear"}.__contains__) as net:
        assert isinstance(net, Record) and net.kind == "pkg.Net" and net.state["n"] == 3
        layer = net.state["_modules"]["a"]
        assert layer.kind == "pkg.layers.Linear" and isinstance(layer.state["_parameters"]["w"], Tensor)
        assert np.array_equal(layer.state["_parameters"]["w"].array(), BASE)


@FORMATS
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path, legacy, share):
    file = tmp_path / "x"
    write(file, {"a": BASE, "b": BASE + 1}, legacy)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    refused(file, "damaged|cut off|not a file of torch.save")


@FORMATS
def test_any_damage_is_a_one_line_error(tmp_path, legacy):
    """Every byte before the tensor data is changed in turn: the file opens, or a one-line error says why not."""
    file = tmp_path / "x"
    write(file, {"a": BASE[:1], "n": [1, (2.5, "text")], "s": Call("builtins set", ([1, 2],))}, legacy)
    data, opens = file.read_bytes(), 0
    for place in range(0, len(data), 1 if legacy else 3):
        for flip in (1, 0x80):
            file.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            try:
                with opened(file, nothing) as tree:
                    if isinstance(tree, dict) and isinstance(tree.get("a"), Tensor):
                        tree["a"].array()
                opens += 1
            except UserError as error:
                assert "\n" not in str(error)
    assert opens  # characters of a name, bits of a number


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a file of torch.save"),
        (b"<html>404</html>", "not a file of torch.save"),
        (b"PK\3\4", "damaged, or cut"),
        (b"\x80\x02N.", "not a file of torch.save"),
        (b"\x80\x02(", "damaged pickle"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", message)


def test_missing_files_and_folders(tmp_path):
    refused(tmp_path / "none", "no such file")
    refused(tmp_path, "is a directory")


def test_other_zip_files(tmp_path):
    file = tmp_path / "x"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(file, "a zip file, but not one of torch.save")
    write_zip(file, {"a": BASE}, byteorder="big")
    refused(file, "big-endian")
    write_zip(file, {"a": BASE}, compression=zipfile.ZIP_DEFLATED)
    refused(file, "compressed")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", Writer(legacy=False).pickle({"a": BASE}))
    refused(file, "damaged.*archive/data/0")


def test_a_changed_checksum_is_noticed(tmp_path):
    file = tmp_path / "x"
    write_zip(file, {"a": BASE})
    data = bytearray(file.read_bytes())
    data[data.find(BASE.tobytes()) + 5] ^= 1
    file.write_bytes(data)
    refused(file, "damaged.*CRC")


def test_other_legacy_files(tmp_path):
    write_legacy(tmp_path / "x", {"a": BASE}, version=1000)
    refused(tmp_path / "x", "another version")
    write_legacy(tmp_path / "x", {"a": BASE}, little_endian=False)
    refused(tmp_path / "x", "big-endian")
    write_legacy(tmp_path / "x", {"a": BASE})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data.replace((24).to_bytes(8, "little"), (25).to_bytes(8, "little")))
    refused(tmp_path / "x", "a storage is not where it should be")


@FORMATS
@pytest.mark.parametrize(
    "view",
    [
        Numbers(BASE, 1, (4, 6), (6, 1)),
        Numbers(BASE, 0, (25,), (1,)),
        Numbers(BASE, 0, (2, 2), (24, 1)),
        Numbers(BASE, -1, (2,), (1,)),
        Numbers(BASE, 4, (2,), (-1,)),
        Numbers(BASE, 0, (4, 6), (6,)),
        Numbers(BASE, 0, (2.0,), (1,)),
        Numbers(BASE, 0, "ab", (1, 1)),
    ],
)
def test_tensors_that_exceed_their_storage(tmp_path, legacy, view):
    write(tmp_path / "x", {"a": view}, legacy)
    refused(tmp_path / "x", "damaged pickle")


@FORMATS
@pytest.mark.parametrize(
    "identity",
    [
        ("storage", Name("torch FloatStorage"), "0", "cpu", -1),
        ("storage", Name("torch FloatStorage"), 0, "cpu", 1),
        ("storage", "torch.FloatStorage", "0"),
        ("other", Name("torch FloatStorage"), "0", "cpu", 1),
        (),
        ("storage",),
    ],
)
def test_invalid_storages(tmp_path, legacy, identity):
    write(tmp_path / "x", {"a": Persistent(identity)}, legacy)
    refused(tmp_path / "x", "damaged pickle")


def test_a_storage_as_large_as_the_disk(tmp_path):
    storage = ("storage", Name("torch FloatStorage"), "0", "cpu", 2**50)
    tensor = Call("torch._utils _rebuild_tensor_v2", (Persistent(storage), 0, (2**50,), (1,), False, {}))
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("archive/data.pkl", Writer(legacy=False).pickle({"a": tensor}))
        archive.writestr("archive/data/0", bytes(8))
    refused(tmp_path / "x", "damaged: 8 bytes where there should be")
