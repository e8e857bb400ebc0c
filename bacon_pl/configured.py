"""What an object was made with, as plain values: so a checkpoint can say what a run is, and make it again."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

Instance = TypeVar("Instance")


class Configured:
    """Remembers the arguments that it was made with, those of a subclass included."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # Any, or subclasses' own signatures would be hidden
        """Make an instance and note its arguments."""
        instance = super().__new__(cls)
        object.__setattr__(instance, "_made_with", (args, kwargs))  # a torch module takes no attributes yet
        return instance


def made(default: Instance) -> Instance:
    """Make what jsonargparse's ``lazy_instance`` stands for as a default; anything else is returned as it is."""
    lazy = vars(default).get("_lazy_class_type") if hasattr(default, "__dict__") else None
    return default if lazy is None else lazy(**vars(default)["_lazy_kwargs"])


def arguments(instance: Configured) -> dict[str, Any]:
    """The arguments of an object's constructor by name, defaults included, as plain values (see :func:`plain`)."""
    args, kwargs = instance._made_with
    # Not the class's own signature, which is that of __new__ above in some versions of Python.
    bound = inspect.signature(type(instance).__init__).bind_partial(instance, *args, **kwargs)
    found: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(bound.signature.parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update(bound.arguments.get(name, {}))
        elif name in bound.arguments and number and parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = bound.arguments[name]
    # Defaults of its own, and of the classes that its ``**kwargs`` are handed on to.
    for name, default in _defaults(type(instance)).items():
        found.setdefault(name, default)
    return {name: plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """Describe a value by numbers, text, lists and dictionaries.

    Objects become ``{"class_path": …, "init_args": …}``, which jsonargparse can make again; so do classes and partial
    calls of them that stand for factories. A function becomes its import path.
    """
    value = made(value) if value is not None else None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, functools.partial):
        factory = next((part for part in (value.func, *value.args) if isinstance(part, type)), value.func)
        return _factory(factory, value.keywords)
    if isinstance(value, type):
        return _factory(value, {})
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    path = class_path(type(value))
    return {"class_path": path, "init_args": arguments(value)} if isinstance(value, Configured) else path


def class_path(cls: type) -> str:
    """The shortest dotted path that a class can be imported by."""
    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _factory(factory: Any, keywords: Mapping[str, Any]) -> Any:
    if not isinstance(factory, type):
        path = f"{factory.__module__}.{factory.__qualname__}"
        return {"class_path": path, "init_args": {k: plain(v) for k, v in keywords.items()}} if keywords else path
    found = {**_defaults(factory), **keywords}
    return {"class_path": class_path(factory), "init_args": {name: plain(part) for name, part in found.items()}}


def _defaults(cls: type) -> dict[str, Any]:
    """Defaults of a constructor's arguments; the bases' too, where it hands on ``**kwargs``."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        for parameter in parameters:
            if parameter.default is not parameter.empty:
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found
