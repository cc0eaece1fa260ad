"""Functions made for one class each, that write its instances and read them again.

To look up for each instance what its fields are takes longer than all the rest. So the fields are written out
as source here, by their names and by what their types were declared to be, and by nothing of what a state has
in it. These functions do what is usual: all fields are there, and each is of its type. Whatever else there is
they leave to the careful methods of `shape_classes.Instance`, which say what is wrong.
"""

from __future__ import annotations

import datetime
import functools
import keyword
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from .cbor import EARLIEST, LATEST, whole
from .heads import MOMENT, TEXTS, double, head
from .shapes import ANY, SCALARS, Shape, Unfit

__all__ = ["TYPE", "UNMADE", "Made", "make", "switch"]

TYPE: Final = "_type"
"""The name under which a map in a union has the name of its class."""
UNMADE: Final = object()
"""In place of a field that was not read yet."""


@attrs.define
class _Switch:
    """Whether anything is made for the shapes that are made now: without it all is the same, and slower."""

    on: bool = True


switch: Final = _Switch()


@attrs.frozen
class Made:
    """What was made for a class; called as the methods of `Shape` of these names."""

    write: Callable[..., None]
    write_all: Callable[..., None]
    write_named: Callable[..., None]
    unpack: Callable[..., Any]
    unpack_all: Callable[..., Any]


def make(
    kind: type,
    names: Sequence[str],
    shapes: Sequence[Shape],
    careful: Mapping[str, Callable[..., Any]],
    *,
    has_dict: bool,
    hash_cached: bool,
) -> Made | None:
    """Make the functions for a class.

    Args:
        kind: the class.
        names: its fields.
        shapes: what each was declared to be.
        careful: what is called where something is not as usual: ``write``, ``write_named``, ``unpack``, and
            ``amend`` where a field was not read.
        has_dict: whether an instance may have more than its fields.
        hash_cached: whether it has a hash that is to be computed again.

    Returns:
        None where a field has a name that cannot be written in a program.
    """
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        return None
    known: dict[str, Any] = {
        "kind": kind,
        "count": len(names),
        "new": object.__new__,
        "put": object.__setattr__,
        "datetime": datetime.datetime,
        "UTC": datetime.UTC,
        "EARLIEST": EARLIEST,
        "LATEST": LATEST,
        "MOMENT": MOMENT,
        "TEXTS": TEXTS,
        "UNMADE": UNMADE,
        "TYPE": TYPE,
        "Unfit": Unfit,
        "double": double,
        "head": head,
        "whole": whole,
        "type_name": kind.__name__,
        "named_end": whole(TYPE) + whole(kind.__name__),
        "start": head(5, len(names)) + b"".join(map(whole, names[:1])),
        "named_start": head(5, len(names) + 1) + b"".join(map(whole, names[:1])),
        **{f"careful_{name}": function for name, function in careful.items()},
    }
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        known |= {
            f"key{number}": whole(name),
            f"shape{number}": shape,
            f"forms{number}": shape.forms,
            f"ready{number}": shape.ready,
            **{f"ready{number}_{index}": one for index, one in enumerate(_few(shape.ready))},
        }
    source = "\n".join(
        [
            *_writer(names, shapes, "write", has_dict=has_dict),
            *_writer(names, shapes, "write_named", has_dict=has_dict),
            *_writer_of_all(names, shapes, has_dict=has_dict),
            *_reader(names, shapes, kind, hash_cached=hash_cached),
            *_reader_of_all(names, shapes, kind, hash_cached=hash_cached),
        ]
    )
    exec(_compiled(source), known)  # noqa: S102 (names of fields alone, which are identifiers)
    return Made(*(known[field.name] for field in attrs.fields(Made)))


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> types.CodeType:
    return compile(source, "<fields of a class>", "exec")


def _indented(lines: Sequence[str], levels: int) -> list[str]:
    return ["    " * levels + line for line in lines]


# Writing.


def _writer(names: Sequence[str], shapes: Sequence[Shape], name: str, *, has_dict: bool) -> Iterator[str]:
    """The source of what writes one instance."""
    yield f"def {name}(value, levels, aside, out):"
    yield "    if not levels or (aside and id(value) in aside):"
    yield f"        return careful_{name}(value, levels, aside, out)"
    yield from _indented(_written(names, shapes, "return", has_dict=has_dict, named=name != "write"), 1)
    yield f"    careful_{name}(value, levels, aside, out)"


def _writer_of_all(names: Sequence[str], shapes: Sequence[Shape], *, has_dict: bool) -> Iterator[str]:
    """The source of what writes many: the same in a loop, since a call for each takes as long again."""
    yield "def write_all(values, levels, aside, out):"
    yield "    for value in values:"
    yield "        if not levels or (aside and id(value) in aside):"
    yield "            careful_write(value, levels, aside, out)"
    yield "            continue"
    yield from _indented(_written(names, shapes, "continue", has_dict=has_dict, named=False), 2)
    yield "        careful_write(value, levels, aside, out)"


def _written(
    names: Sequence[str], shapes: Sequence[Shape], leave: str, *, has_dict: bool, named: bool
) -> list[str]:
    """Add the bytes of ``value`` to ``out`` and leave, if it is as usual."""
    checks: list[str] = []
    prepared: list[str] = []
    pieces: list[str | None] = ["named_start" if named else "start"]
    """What is added in one go; before and behind what adds to ``out`` itself, which is None here."""
    calls: list[str] = []
    for n, shape in enumerate(shapes):
        if n:
            pieces.append(f"key{n}")  # That of the first is behind the start.
        if shape is SCALARS[str]:
            checks.append(f"type(v{n}) is str")
            prepared += [f"v{n} = v{n}.encode()", f"n{n} = len(v{n})"]
            pieces += [f"TEXTS[n{n}] if n{n} < 256 else head(3, n{n})", f"v{n}"]
        elif shape is SCALARS[datetime.datetime]:
            checks.append(
                f"type(v{n}) is datetime and v{n}.tzinfo is UTC and not v{n}.fold"
                f" and EARLIEST < v{n} < LATEST"
            )
            pieces += ["MOMENT", f"double(v{n}.timestamp())"]
        elif shape.takes is not None and shape.takes <= shape.forms.keys():
            checks.append(f"type(v{n}) in forms{n}")
            pieces.append(f"forms{n}[type(v{n})](v{n})")
        else:
            pieces.append(None)
            calls.append(f"shape{n}.write(v{n}, levels - 1, aside, out)")
    if named:
        pieces.append("named_end")
    adding: list[str] = []
    group: list[str] = []
    for piece in (*pieces, None):
        if piece is not None:
            group.append(piece)
            continue
        if group:
            adding.append(f"out += ({', '.join(group)},)")
        group = []
        if calls:
            adding.append(calls.pop(0))
    more = " and len(value.__dict__) <= count" if has_dict else ""
    return [
        f"if type(value) is kind{more}:",
        "    try:",
        *([f"        v{n} = value.{name}" for n, name in enumerate(names)] or ["        pass"]),
        "    except AttributeError:",
        f"        careful_{'write_named' if named else 'write'}(value, levels, aside, out)",
        f"        {leave}",
        f"    if {' and '.join(checks) or True}:",
        *_indented([*prepared, *adding, leave], 2),
    ]


# Reading.


def _reader(names: Sequence[str], shapes: Sequence[Shape], kind: Any, *, hash_cached: bool) -> Iterator[str]:
    """The source of what reads one instance."""
    yield "def unpack(raw, reading):"
    yield from _indented(_read(names, shapes, kind, ("return made",), hash_cached=hash_cached), 1)
    yield "    return careful_unpack(raw, reading)"


def _reader_of_all(
    names: Sequence[str], shapes: Sequence[Shape], kind: Any, *, hash_cached: bool
) -> Iterator[str]:
    """The source of what reads many instances, as for writing them."""
    yield "def unpack_all(raws, reading, where):"
    yield "    all = []"
    yield "    add = all.append"
    yield "    try:"
    yield "        for raw in raws:"
    lines = _read(names, shapes, kind, ("add(made)", "continue"), hash_cached=hash_cached)
    yield from _indented(lines, 3)
    yield "            add(careful_unpack(raw, reading))"
    yield "    except Unfit as error:"
    yield "        error.path.append(where(len(all)))"
    yield "        raise"
    yield "    return all"


def _read(
    names: Sequence[str], shapes: Sequence[Shape], kind: Any, done: Sequence[str], *, hash_cached: bool
) -> list[str]:
    """Make ``made`` of ``raw``, and leave, if it is as usual."""
    checks: list[str] = []
    unmade: list[int] = []
    """The fields that something is made for."""
    for n, shape in enumerate(shapes):
        few = [f"type(v{n}) is ready{n}_{index}" for index, _ in enumerate(_few(shape.ready))]
        if shape is ANY:
            continue
        if shape.ready >= shape.stored:
            checks.append(f"({' or '.join(few)})" if few else f"type(v{n}) in ready{n}")
        else:
            unmade.append(n)
    put = [
        f"made.{name} = v{n}" if kind.__setattr__ is object.__setattr__ else f"put(made, {name!r}, v{n})"
        for n, name in enumerate(names)
    ]
    if hash_cached:
        put.append("put(made, '_attrs_cached_hash', None)")
    # Where the map is that of a class in a union, it has the class's name as well.
    named = "" if TYPE in names else " or (len(raw) == count + 1 and raw.get(TYPE) == type_name)"
    lines = [
        f"if type(raw) is dict and (len(raw) == count{named}):",
        "    try:",
        *([f"        v{n} = raw[{name!r}]" for n, name in enumerate(names)] or ["        pass"]),
        "    except KeyError:",
        "        made = careful_unpack(raw, reading)",
        *_indented(done, 2),
        f"    if {' and '.join(checks) or True}:",
    ]
    if unmade:
        given = ", ".join(f"{names[n]!r}: m{n}" for n in unmade)
        lines += [
            f"        {' = '.join(f'm{n}' for n in unmade)} = UNMADE",
            "        try:",
        ]
        for n in unmade:
            read = f"shape{n}.unpack(v{n}, reading)"
            if shapes[n].ready:
                read = f"v{n} if type(v{n}) in ready{n} else {read}"
            lines.append(f"            m{n} = {read}")
        lines += [
            "        except Unfit as error:",
            f"            made = careful_amend(raw, reading, error, {{{given}}})",
            *_indented(done, 3),
        ]
        lines += [f"        v{n} = m{n}" for n in unmade]
    return [*lines, "        made = new(kind)", *_indented([*put, *done], 2)]


def _few(kinds: frozenset[type]) -> Sequence[type]:
    """Types, where they are so few that it is quicker to look at one by one than to look one up."""
    return sorted(kinds, key=lambda kind: kind.__name__) if len(kinds) <= 2 else ()
