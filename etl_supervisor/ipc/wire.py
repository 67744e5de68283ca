"""A message <-> bytes: `[tag, fields...]` in JSON (orjson). Readers and writers of one message stand as a pair.

Fields are encoded by the dataclass's own order, decoded by its annotations: nested dataclasses, tuples, enums and optionals. Bytes that do
not fit are a `ValueError` naming message and field; nothing else is raised. Fields with defaults may be missing at the end: what an older version
kept in Snowflake is read by a newer one.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

import orjson

from etl_supervisor.ipc import messages

MESSAGE_BYTES_MAX = 16 << 20  # 1,600 columns of 63-byte names take about 300 kB; anything near this is a fault

T = typing.TypeVar("T")

_CLASSES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(messages.Message)}


def encode(message: messages.Message) -> bytes:
    """The bytes of a message. Raises ValueError above MESSAGE_BYTES_MAX."""
    data = orjson.dumps([type(message).__name__, *_plain_fields(message)])
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(f"{type(message).__name__} of {len(data)} bytes is over {MESSAGE_BYTES_MAX}")
    return data


def decode(data: bytes) -> messages.Message:
    """The message that `encode` wrote."""
    try:
        tag, *fields = _list(orjson.loads(data))
    except ValueError as error:
        raise ValueError("a message is a JSON array that starts with its name") from error
    cls = _CLASSES.get(tag) if isinstance(tag, str) else None
    if cls is None:
        raise ValueError("a message of an unknown name")
    return typing.cast(messages.Message, _reader_of(cls)(fields))


def dump(value: Any) -> str:
    """One of our dataclasses as text."""
    return orjson.dumps(_plain(value)).decode()


def load(cls: type[T], text: str) -> T:
    """What `dump` wrote. ValueError when it is not of this class."""
    read: Reader = _reader_of(typing.cast(typing.Any, cls))
    return typing.cast(T, read(orjson.loads(text)))


def _plain_fields(value: Any) -> list[Any]:
    return [_plain(getattr(value, field.name)) for field in dataclasses.fields(value)]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _list(plain: Any) -> list[Any]:
    if not isinstance(plain, list):
        raise ValueError("expected an array")
    return plain


Reader = Callable[[Any], Any]


@functools.cache
def _reader_of(kind: Any) -> Reader:
    """A function from plain JSON to a value of type `kind`."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        item = _reader_of(arguments[0])
        return lambda plain: tuple(item(part) for part in _list(plain))
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        read = _reader_of(inner)
        return lambda plain: None if plain is None else read(plain)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if kind is float:
        return float
    wanted: type = origin or kind

    def checked(plain: Any) -> Any:
        if type(plain) is not wanted:
            raise TypeError(f"expected {wanted.__name__}, found {type(plain).__name__}")
        return plain

    return checked


def _dataclass_reader(cls: Any) -> Reader:
    hints = typing.get_type_hints(cls)
    fields = [(field.name, _reader_of(hints[field.name])) for field in dataclasses.fields(cls)]
    needed = sum(
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(cls)
    )

    def read(plain: Any) -> Any:
        if not isinstance(plain, list) or not needed <= len(plain) <= len(fields):
            raise ValueError(f"{cls.__name__}: expected {len(fields)} fields")
        values = []
        for (name, reader), part in zip(fields, plain, strict=False):
            try:
                values.append(reader(part))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{cls.__name__}.{name}: {error}") from error
        return cls(*values)

    return read
