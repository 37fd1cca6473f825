"""Malicious pickles: each is shown to work with `pickle.loads`, and to do nothing here."""

import collections
import copyreg
import io
import os
import pickle
import subprocess
import sys
import zipfile

import pytest

from tests.image.torch_writer import MAGIC, Writer
from vilg.errors import UserError
from vilg.image.importing import pickles, torch_files
from vilg.image.importing.pickles import Name, PickleError, Record, Vocabulary

TAME = Vocabulary({"collections.OrderedDict": dict}, lambda name: name.startswith("tame."))


def read(data: bytes, persistent=None):
    return pickles.read(io.BytesIO(data), TAME, persistent)


def text(value: str) -> bytes:
    return Writer(legacy=False).code(value)


class Attack:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetState:
    def __setstate__(self, command):
        os.system(command)


class New:
    def __new__(cls, command):
        os.system(command)
        return object.__new__(cls)


def attacks(touch: str) -> dict[str, bytes]:
    """Programs that create the file `touch` when `pickle.loads` runs them."""
    shell, here = f"touch {touch}", __name__.encode()
    attack, command = Attack(os.system, shell), text(shell)
    return {
        "os.system": pickle.dumps(attack),
        "protocol 0": pickle.dumps(attack, 0),
        "protocol 2": pickle.dumps(attack, 2),
        "exec": pickle.dumps(Attack(exec, f"open({touch!r}, 'w').close()")),
        "eval": pickle.dumps(Attack(eval, f"open({touch!r}, 'w').close()")),
        "subprocess": pickle.dumps(Attack(subprocess.check_call, ["touch", touch])),
        "open": pickle.dumps(Attack(open, touch, "w")),
        "a pickle in a pickle": pickle.dumps(Attack(pickle.loads, pickle.dumps(attack))),
        "deep inside": pickle.dumps({"state_dict": [({"a": attack},)]}),
        "getattr of an import": b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n("
        + text("os")
        + b"tR"
        + text("system")
        + b"tR("
        + command
        + b"tR.",
        "a call for each of a list": b"\x80\x02cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n]("
        + command
        + b"etRtR.",
        "a name with dots": b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + command + b"\x85R.",
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + command + b"o.",
        "NEWOBJ": b"\x80\x02c" + here + b"\nNew\n(" + command + b"t\x81.",
        "BUILD": b"\x80\x02c" + here + b"\nSetState\n)\x81" + command + b"b.",
        "an extension code": b"\x80\x02\x82\xf3" + command + b"\x85R.",
    }


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", 0xF3)
    yield
    copyreg.remove_extension("os", "system", 0xF3)
    copyreg.clear_extension_cache()


@pytest.mark.parametrize("name", attacks("x"))
def test_a_malicious_pickle_is_refused_and_runs_nothing(name, tmp_path, extension):
    touched = tmp_path / "touched"
    data = attacks(str(touched))[name]
    with pytest.raises(PickleError, match="refused: its pickle"):
        read(data)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    (tmp_path / "legacy").write_bytes(Writer(legacy=True).pickle(MAGIC) + data)
    (tmp_path / "bare").write_bytes(data)
    for file in ("zip", "legacy", "bare"):
        refused = pytest.raises(UserError, match="refused: its pickle|not a file of torch.save")
        with refused as caught, torch_files.opened(tmp_path / file, TAME.known):
            pass
        assert "\n" not in str(caught.value)
    assert not touched.exists()
    pickle.loads(data)
    assert touched.exists(), "this attack does not bite, so the test proves nothing"


def test_a_known_name_is_neither_imported_nor_called(tmp_path, monkeypatch):
    """A malicious module has a known name, and the pickle does everything that is possible with its class."""
    touched = tmp_path / "touched"
    (tmp_path / "tame.py").write_text(f"open({str(touched)!r}, 'a').close()\ndef bite(*all): raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name, state = b"ctame\nbite\n", text("x")
    for program in (name + b".", name + b"(" + state + b"tR.", name + b")\x81" + state + b"b."):
        got = read(b"\x80\x02" + program)
        assert type(got) in (Name, Record)
    assert not touched.exists() and "tame" not in sys.modules
    with pytest.raises(SystemExit):
        pickle.loads(b"\x80\x02" + name + b"(" + state + b"tR.")
    assert touched.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"ctame\nbite\n}(" + text("x") + b"K\1ub.",
        b"ccollections\nOrderedDict\nN}(" + text("x") + b"K\1u\x86b.",
        b"](K\1eN\x86b.",
        b"K\1)R.",
        text("os") + b")R.",
        b"ctame\na\n)R)R.",
        b"ctame\na\nK\1R.",
        b")N\x86b.",
    ],
)
def test_only_records_receive_state_and_only_known_names_are_called(program):
    """Nothing can be set on a name, on an imported object, or on data."""
    with pytest.raises(PickleError, match="damaged pickle"):
        read(b"\x80\x02" + program)


@pytest.mark.parametrize("protocol", [2, 4])
def test_list_and_dict_items_of_a_record_are_skipped(protocol):
    """As in a pickled optimizer, whose state is a defaultdict."""
    tree = {
        "left": collections.defaultdict(dict, {0: {"step": 5}, 1: {}}),
        "one": collections.defaultdict(list, a=[1]),
        "queue": collections.deque([1, 2]),
        "kept": [3],
    }
    names = {"collections.defaultdict", "collections.deque", "builtins.dict", "builtins.list"}
    got = pickles.read(io.BytesIO(pickle.dumps(tree, protocol)), Vocabulary({}, names.__contains__))
    assert got["left"].kind == "collections.defaultdict" and got["left"].arguments == ("builtins.dict",)
    assert got["queue"].kind == "collections.deque" and got["kept"] == [3]


@pytest.mark.parametrize(
    "program, instruction",
    [
        (b"(ctame\na\no.", "OBJ"),
        (b"(itame\na\n.", "INST"),
        (b"\x80\x04ctame\na\n)}\x92.", "NEWOBJ_EX"),
        (b"\x82\1.", "EXT1"),
        (b"P1\n.", "PERSID"),
        (text("1") + b"Q.", "BINPERSID"),
        (b"N2.", "DUP"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_instructions_that_data_do_not_need_are_refused(program, instruction):
    with pytest.raises(PickleError, match=f"refused: its pickle has the instruction {instruction}"):
        read(program)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80",
        b"K",
        b"K\1",
        b".",
        b"t.",
        b"K\1\x86.",
        b"h\0.",
        b"}K\1s.",
        b"](u.",
        b"}(K\1u.",
        b"}(]K\1u.",
        b"X\xff\xff\xff\x7fa.",
        b"X\1\0\0\0\xff.",
        b"\xff.",
    ],
)
def test_damaged_pickles(program):
    with pytest.raises(PickleError, match="damaged pickle") as caught:
        read(program)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_data_round_trip(protocol):
    shared = ["x"]
    tree = {
        "a": [1, -1, 255, 65536, 2**31, -(2**70), 0.5, None, True, False],
        "b": ("é", (), (1,), (1, 2, 3, 4), shared),
        "c": shared,
        "d": {},
        5: "long" * 100,
    }
    got = read(pickle.dumps(tree, protocol))
    assert got == tree and got["c"] is got["b"][-1]
    if protocol >= 4:
        assert read(pickle.dumps({1, 2}, protocol)) == {1, 2}
    if protocol >= 3:
        assert read(pickle.dumps(b"bytes", protocol)) == b"bytes"


def test_a_length_that_exceeds_memory(tmp_path):
    """No more is read than the file contains, whatever length it states."""
    (tmp_path / "long.pkl").write_bytes(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.")
    with open(tmp_path / "long.pkl", "rb") as stream, pytest.raises(PickleError, match="damaged pickle"):
        pickles.read(stream, TAME)


def test_a_list_that_contains_itself():
    tree = []
    tree.append(tree)
    got = read(pickle.dumps(tree))
    assert got[0] is got


def test_the_stream_position_is_after_each_pickle():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    assert [pickles.read(stream, TAME), pickles.read(stream, TAME), stream.read()] == [1, [2], b"rest"]
