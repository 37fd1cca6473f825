"""Reads pickles as data, without executing them.

A pickle is a program for a stack machine, and `pickle.load` calls any function that the program names. The machine in
this module has only the instructions that build data, and names remain names: nothing is imported or called. It
supports the instructions of protocol 2, which torch writes, and of 4 and 5. `pickletools` of the standard library
parses the instructions.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO


class PickleError(Exception):
    """A pickle that is damaged or needs something unsupported. The message has one line."""


class Name(str):
    """A class or function that a pickle names: module.name."""


@dataclass(eq=False)
class Record:
    """An object of an unknown class: its constructor arguments and its state."""

    kind: Name
    arguments: tuple
    state: Any = None


@dataclass(frozen=True)
class Vocabulary:
    """The names that a pickle may contain.

    built: functions that are applied to the arguments (data) of calls of these names. known: whether any other name is
    allowed; calls of such names become a Record.
    """

    built: dict[str, Callable]
    known: Callable[[str], bool]


_CONSTANTS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FAULTS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)


def read(stream: BinaryIO, vocabulary: Vocabulary, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object whose pickle starts at the current position of the stream, which is left after the pickle.

    persistent: returns the object for a persistent id, such as the storage of a tensor. Raises PickleError.
    """
    try:
        return _Machine(vocabulary, persistent).run(stream)
    except _FAULTS as fault:
        raise PickleError(f"damaged pickle ({' '.join(str(fault).split()) or type(fault).__name__})") from None


@dataclass
class _Machine:
    vocabulary: Vocabulary
    persistent: Callable | None
    stack: list = field(default_factory=list)
    below: list[list] = field(default_factory=list)  # the stacks below open marks
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: BinaryIO) -> Any:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                return self.stack.pop()
            self.step(instruction.name, argument)
        raise PickleError("the pickle has no end")

    def step(self, name: str, argument) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
            self.stack = self.below.pop()
            self.gather(name, stack)
        elif name == "APPEND":
            self.gather("APPENDS", [stack.pop()])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self.gather("SETITEMS", [key, value])
        elif name == "GLOBAL":
            stack.append(self.name(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self.name(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(self.call(called, arguments))
        elif name == "BUILD":
            self.build(stack.pop())
        elif name == "BINPERSID" and self.persistent:
            stack.append(self.persistent(stack.pop()))
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"refused: its pickle has the instruction {name}, which data does not need")

    def gather(self, name: str, items: list) -> None:
        """Put the items above a mark into a new tuple, or into the list, dict or set below the mark."""
        if name == "TUPLE":
            self.stack.append(tuple(items))
        elif type(self.stack[-1]) is Record:
            pass  # the state of an ignored object
        elif name == "APPENDS":
            self.top(list).extend(items)
        elif name == "SETITEMS":
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "ADDITEMS":
            self.top(set).update(items)

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"no {kind.__name__} where one is filled")
        return self.stack[-1]

    def name(self, text: str) -> Name:
        name = Name(text.replace("__builtin__.", "builtins.", 1) if text.startswith("__builtin__.") else text)
        if name not in self.vocabulary.built and not self.vocabulary.known(name):
            raise PickleError(f"refused: its pickle names {name!r}, which a file of this kind does not need")
        return name

    def call(self, called: Any, arguments: Any) -> Any:
        if type(called) is not Name or type(arguments) is not tuple:
            raise TypeError("a call of what is no name")
        make = self.vocabulary.built.get(called)
        return make(*arguments) if make else Record(called, arguments)

    def build(self, state: Any) -> None:
        """The BUILD instruction: state is stored in a Record; state of a dict, which torch adds to weights, is
        ignored.
        """
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
        else:
            self.top(dict)
