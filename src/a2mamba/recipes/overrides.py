"""Typed changes to a run's configuration: `key=value` from the command line, JSON beside a checkpoint, help texts.

A configuration is a tree of dataclasses. A key names a leaf by its path, as in `optimizer.lr`. Leaves are typed by
their annotations: int, float, bool, str, Path, Literal, tuples and lists of these, and unions (`X | None` above all).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import logging
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

_log = logging.getLogger(__name__)
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_NONE = ("none", "null")


class FieldDescription(NamedTuple):
    """One leaf of a configuration: its key, its type in words, its value, and the docstring below its declaration."""

    key: str
    type: str
    value: Any
    doc: str


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A new configuration in which every `key=value` of `overrides` is done; the last one of a key counts.

    Values: numbers as in Python, true/false (yes/no, on/off, 1/0) for bool, none for an optional value, commas between
    the elements of a tuple or list. A key below an optional group that is none switches the group on, from its
    defaults. All changes are made at once: the checks of a dataclass see the result and not the steps to it.

    Raises ValueError, one line: for text without `=`, for an unknown key (naming the nearest valid one) and for a
    value of another type (naming the expected one).
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"expected key=value, found {override!r}")
        *groups, leaf = key.split(".")
        owner: type[Any] = type(config)
        branch = changes
        for group in groups:
            inner = _group_class(_hints(owner).get(group))
            if inner is None:
                raise _unknown_key(key, type(config))
            owner = inner
            below = branch.setdefault(group, {})
            branch[group] = branch = below if isinstance(below, dict) else {}  # `group=none` before: begin again
        hint = _hints(owner).get(leaf)
        if hint is None:
            raise _unknown_key(key, type(config))
        branch[leaf] = _parse_leaf(key, text.strip(), hint)
    return _rebuild(config, changes, prefix="")


def to_json(config: DataclassInstance) -> str:
    """The configuration as JSON; paths become strings and tuples lists. `from_json` is the inverse."""
    return json.dumps(_plain(config), indent=2)


def from_json(cls: type[Config], text: str) -> Config:
    """The configuration of class `cls` that `to_json` wrote.

    Raises ValueError, one line, for text that is not JSON, unknown keys, values of another type, and missing values
    without a default.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration of {cls.__name__} is not JSON: {error}") from None
    if isinstance(data, dict) and data.pop("strategy", "ddp") != "ddp":  # an option that was
        _log.warning("the run was trained with FSDP, which this version does not have: it goes on with DDP")
    built: Config = _from_plain(cls, data, key="", root=cls)
    return built


def describe_fields(config: DataclassInstance) -> list[FieldDescription]:
    """Every leaf, in order of declaration, groups in place; a group that is none is one leaf."""
    described: list[FieldDescription] = []
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            described += [leaf._replace(key=f"{name}.{leaf.key}") for leaf in describe_fields(value)]
        else:
            described.append(FieldDescription(name, _words(hint), value, _docs(type(config)).get(name, "")))
    return described


def _rebuild(config: Any, changes: Mapping[str, Any], *, prefix: str) -> Any:
    values: dict[str, Any] = {}
    for name, change in changes.items():
        if not isinstance(change, dict):
            values[name] = change
            continue
        group = getattr(config, name)
        if group is None:
            cls = _group_class(_hints(type(config))[name])
            assert cls is not None, "apply_overrides makes branches for groups only"
            values[name] = _with_defaults(cls, change, key=prefix + name)
        else:
            values[name] = _rebuild(group, change, prefix=f"{prefix}{name}.")
    return dataclasses.replace(config, **values)


def _with_defaults(cls: type[Any], changes: Mapping[str, Any], *, key: str) -> Any:
    """A group that was none: the changes over its defaults."""
    values: dict[str, Any] = {}
    for name, change in changes.items():
        inner = _group_class(_hints(cls)[name])
        values[name] = (
            _with_defaults(inner, change, key=f"{key}.{name}") if isinstance(change, dict) and inner else change
        )
    missing = [name for name in _required(cls) if name not in values]
    if missing:
        raise ValueError(f"{key} is none and has no default for {', '.join(missing)}; set {key}.{missing[0]} too")
    return cls(**values)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _hints(type(value))}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _from_plain(cls: type[Any], data: Any, *, key: str, root: type[Any]) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{key or cls.__name__}: expected an object with the fields of {cls.__name__}, found {data!r}")
    hints = _hints(cls)
    values: dict[str, Any] = {}
    for name, value in data.items():
        full = f"{key}.{name}" if key else name
        if name not in hints:
            raise _unknown_key(full, root)
        group = _group_class(hints[name])
        if group is not None:
            off = value is None and _is_optional(hints[name])
            values[name] = None if off else _from_plain(group, value, key=full, root=root)
            continue
        converted, fits = _convert(value, hints[name])
        if not fits:
            raise ValueError(f"{full}: expected {_words(hints[name])}, found {json.dumps(value)}")
        values[name] = converted
    missing = [name for name in _required(cls) if name not in values]
    if missing:
        raise ValueError(f"{key or cls.__name__}: no value for {', '.join(missing)}")
    return cls(**values)


def _parse_leaf(key: str, text: str, hint: Any) -> Any:
    group = _group_class(hint)
    if group is not None:
        if _is_optional(hint) and text.lower() in _NONE:
            return None
        example = next(iter(_hints(group)), "field")
        raise ValueError(f"{key} is a group of values; set one of them, such as {key}.{example}=...")
    value, fits = _parse(text, hint)
    if not fits:
        raise ValueError(f"{key}: expected {_words(hint)}, found {text!r}")
    return value


def _parse(text: str, hint: Any) -> tuple[Any, bool]:
    """(value, True), or (None, False) when the text is not of this type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # None first: the text "none" would be a valid str too.
        ordered = sorted(arguments, key=lambda argument: argument is not types.NoneType)
        return next((parsed for parsed in (_parse(text, option) for option in ordered) if parsed[1]), (None, False))
    if origin in (tuple, list):
        inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        parts = [part.strip() for part in inside.split(",")] if inside.strip() else []
        if len(parts) > 1 and not parts[-1]:
            parts.pop()  # Python's way to write a tuple of one: "3,"
        return _sequence(parts, hint, _parse)
    if origin is Literal:
        return next(((choice, True) for choice in arguments if text == str(choice)), (None, False))
    if hint is types.NoneType:
        return None, text.lower() in _NONE
    if hint is bool:
        return text.lower() in _TRUE, text.lower() in _TRUE + _FALSE
    if hint in (int, float):
        try:
            return hint(text), True
        except ValueError:
            return None, False
    if hint in (str, Path):
        return hint(text), True
    raise TypeError(f"configuration fields of type {hint} are not supported")


def _convert(value: Any, hint: Any) -> tuple[Any, bool]:
    """The same for a value read from JSON."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((done for done in (_convert(value, option) for option in arguments) if done[1]), (None, False))
    if origin in (tuple, list):
        return _sequence(value, hint, _convert) if isinstance(value, list) else (None, False)
    if origin is Literal:
        return value, any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is Path:
        return (Path(value), True) if isinstance(value, str) else (None, False)
    if hint is float and type(value) is int:
        return float(value), True
    if hint in (int, float, bool, str, types.NoneType):
        return value, type(value) is hint
    raise TypeError(f"configuration fields of type {hint} are not supported")


def _sequence(items: Sequence[Any], hint: Any, read: Any) -> tuple[Any, bool]:
    """`items` read one by one as the elements of a tuple or list type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list or arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(items)
    if len(items) != len(arguments):
        return None, False
    results = [read(item, argument) for item, argument in zip(items, arguments, strict=True)]
    return origin(value for value, _ in results), all(fits for _, fits in results)


def _unknown_key(key: str, root: type[Any]) -> ValueError:
    keys = _keys(root)
    same_end = [valid for valid in keys if valid.split(".")[-1] == key.split(".")[-1]]
    nearest = difflib.get_close_matches(key, same_end or keys, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return ValueError(f"unknown key {key!r}{hint}")


def _keys(cls: type[Any]) -> list[str]:
    """All keys below a class, those of optional groups included."""
    keys: list[str] = []
    for name, hint in _hints(cls).items():
        group = _group_class(hint)
        keys += [name] if group is None else [f"{name}.{key}" for key in _keys(group)]
    return keys


def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of the fields that the constructor takes, in order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _required(cls: type[Any]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def _group_class(hint: Any) -> type[Any] | None:
    """The dataclass of a group, also of an optional one; None for a leaf."""
    options = [option for option in (get_args(hint) or (hint,)) if dataclasses.is_dataclass(option)]
    return options[0] if options and isinstance(options[0], type) else None


def _is_optional(hint: Any) -> bool:
    return types.NoneType in get_args(hint)


def _words(hint: Any) -> str:
    """A type in words, for messages and help."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"{_words(arguments[0])} values, comma-separated"
    if origin is tuple:
        return ",".join(_words(argument) for argument in arguments)
    if hint is types.NoneType:
        return "none"
    return {Path: "path", bool: "true or false", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


@functools.cache
def _docs(cls: type[Any]) -> dict[str, str]:
    """Field -> the string that follows its declaration, base classes included; empty where there is no source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # defined in an interpreter session, or in a compiled distribution
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs
