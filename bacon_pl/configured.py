"""Description of objects by their constructor arguments as plain values, so that checkpoints can recreate them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

Instance = TypeVar("Instance")


class Configured:
    """Base class of objects that remember the arguments of their constructor."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # Any, since other types would hide subclasses' signatures
        """Create an instance and record its arguments."""
        instance = super().__new__(cls)
        object.__setattr__(instance, "_made_with", (args, kwargs))  # a torch module does not accept attributes yet
        return instance


def made(default: Instance) -> Instance:
    """Create the object that a default made by jsonargparse's ``lazy_instance`` stands for; return others unchanged."""
    lazy = vars(default).get("_lazy_class_type") if hasattr(default, "__dict__") else None
    return default if lazy is None else lazy(**vars(default)["_lazy_kwargs"])


def arguments(instance: Configured) -> dict[str, Any]:
    """Return the constructor arguments of an object by name, including defaults, as plain values (see :func:`plain`).

    Arguments passed to a base class by ``**kwargs`` are included if they were given.
    """
    args, kwargs = instance._made_with
    # Not the signature of the class, which is that of __new__ above in some versions of Python.
    bound = inspect.signature(type(instance).__init__).bind_partial(instance, *args, **kwargs)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(bound.signature.parameters.items()):
        if not number or name not in bound.arguments:  # self, or an argument without a value and default
            continue
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update(value)
        elif parameter.kind is not parameter.VAR_POSITIONAL or len(value):
            found[name] = value
    return {name: plain(value) for name, value in found.items()}


def remake(cls: type, described: Mapping[str, Any]) -> dict[str, Any]:
    """Recreate constructor arguments from the plain values returned by :func:`arguments`.

    Args:
        cls: The class.
        described: Plain values by name.

    Returns:
        The arguments by name.

    Raises:
        argparse.ArgumentError: An argument cannot be recreated.
    """
    from jsonargparse import ArgumentParser  # imported here, since reading a distilled set does not need it

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "made", fail_untyped=False, instantiate=False)
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the latter's new name
    found = instantiate(parser.parse_object({"made": dict(described)}))["made"]
    return {name: found[name] for name in described}


def plain(value: Any) -> Any:
    """Describe a value with numbers, text, lists and dictionaries, such that different values differ.

    Objects are described as ``{"class_path": …, "init_args": …}``, from which jsonargparse can recreate them. The same
    form is used for classes and partial calls of classes that serve as factories. Functions are described by their
    import path, with a hash if they have no unique name, and tensors by their shape and a hash.
    """
    value = made(value) if value is not None else None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)  # not an instance of a subclass, which could not be loaded from a checkpoint
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return _numbers(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(part) for part in value), key=repr)
    if isinstance(value, (list, tuple, range)):
        return [plain(part) for part in value]
    if isinstance(value, Configured):
        return {"class_path": class_path(type(value)), "init_args": arguments(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.init and field.compare)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, functools.partial):
        return _partial(value)
    if isinstance(value, type):
        return _factory(value, {})
    if callable(value) and hasattr(value, "__qualname__"):
        return _function(value)
    state = {name: plain(part) for name, part in sorted(getattr(value, "__dict__", {}).items())}
    return {"class_path": class_path(type(value)), "state": state}


def class_path(cls: type) -> str:
    """Return the shortest dotted path by which a class can be imported."""
    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _numbers(value: np.generic | np.ndarray[Any, Any] | Tensor) -> Any:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if not array.ndim:
        return array.item()
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "digest": digest}


def _partial(value: functools.partial[Any]) -> Any:
    if getattr(value.func, "__module__", "").startswith("jsonargparse"):  # a factory made by its parser
        factory = next(part for part in value.args if isinstance(part, type))
        return _factory(factory, value.keywords)
    if isinstance(value.func, type) and not value.args:
        return _factory(value.func, value.keywords)
    found: dict[str, Any] = {"class_path": plain(value.func), "init_args": plain(value.keywords)}
    return {**found, "args": plain(value.args)} if value.args else found


def _function(value: Any) -> str:
    path = f"{value.__module__}.{value.__qualname__}"
    code, owner = getattr(value, "__code__", None), getattr(value, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):  # a method depends on its object
        return f"{path} of {plain(owner)}"
    if code is None or "<" not in value.__qualname__:
        return path
    # The name of a lambda or nested function is not unique, so describe its code, defaults and closure.
    held = [plain(cell.cell_contents) for cell in value.__closure__ or ()]
    text = repr((code.co_code, code.co_consts, code.co_names, plain(value.__defaults__), held))
    return f"{path}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _factory(factory: type, keywords: Mapping[str, Any]) -> dict[str, Any]:
    found = {**_defaults(factory), **keywords}
    return {"class_path": class_path(factory), "init_args": {name: plain(part) for name, part in found.items()}}


def _defaults(cls: type) -> dict[str, Any]:
    """Return the default values of a constructor's own arguments."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return {p.name: p.default for p in parameters if p.default is not p.empty}
