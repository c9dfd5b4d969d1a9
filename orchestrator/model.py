"""What may stand in a sweep file, and how is it said that something else may not?

The words in which every error is put (what was found, what is possible, the nearest name), the marks that make
a type say them, the base of every model of a sweep file, and the values that several models share. A problem
knows where it is inside its own model; the file and the line are added by `document.py` and `sweep.py`.
Which keys there are is for the models themselves.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import GenericAlias
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    RootModel,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

Loc: TypeAlias = tuple[int | str, ...]


# What is possible, in words -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Something impossible, at a place inside the value that reports it."""

    loc: Loc
    message: str


def show(value: object, length: int = 60) -> str:
    """A value as a sweep file would have it, shortened."""
    text = _flow(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def impossible(found: object, possible: str) -> PydanticCustomError:
    """The error of one value: what was found and what is possible."""
    return _custom(f"found {show(found)}; {possible}")


def known(found: object, names: Sequence[str]) -> str:
    """What is possible where a name is expected, with the nearest one."""
    hint = nearest(found, names)
    return f"{listing(names)} {'is' if len(names) == 1 else 'are'} possible" + (f"; {hint}" if hint else "")


def nearest(found: object, names: Sequence[str]) -> str:
    """`did you mean 'x'?`, or nothing where no name is near."""
    written = str(found).lower()[:100]
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(written, lowered, n=1, cutoff=0.6)
    near = near or [name for name in lowered if len(written) > 1 and name.startswith(written)][:1]
    return f"did you mean {lowered[near[0]]!r}?" if near and lowered[near[0]] != found else ""


def listing(names: Sequence[str], last: str = "and") -> str:
    return " ".join([", ".join(names[:-1]), last, names[-1]] if len(names) > 1 else names)


def rejection(problems: Sequence[Problem]) -> ValidationError:
    """The problems as one error of pydantic, which adds where the value is."""
    details = [InitErrorDetails(type=_custom(p.message), loc=p.loc, input=None) for p in problems]
    return ValidationError.from_exception_data("sweep", details)


def _custom(message: str) -> PydanticCustomError:
    return PydanticCustomError("sweep", "{message}", {"message": message})


def _flow(value: object) -> str:
    if isinstance(value, BaseModel):
        return _flow(value.model_dump(mode="json", by_alias=True, exclude_unset=True))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(v)}" for key, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.12g}" if math.isfinite(value) else f"{value:g}".replace("inf", ".inf").replace("nan", ".nan")
    return repr(value)


def _key(key: object) -> str:
    return str(key) if str(key).isprintable() else repr(key)


# Marks of a type ------------------------------------------------------------------------------------------------------


def expect(possible: str) -> WrapValidator:
    """One message instead of what pydantic says about a value that is not `possible`."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise impossible(value, f"{possible} is possible") from None

    return WrapValidator(check)


def mapping(contents: str) -> BeforeValidator:
    """One message for a value that is no mapping, before its contents are looked at."""

    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise impossible(value, f"a mapping {contents} is possible")
        return value

    return BeforeValidator(check)


# The lists of a sweep file, as the tuples that the models hold.
as_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class OneOf:
    """Marks a Literal: an unknown word lists the known ones."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        names = get_args(source)

        def check(value: Any) -> Any:
            if not (isinstance(value, str) and value in names):
                raise impossible(value, known(value, names))
            return value

        return core_schema.no_info_before_validator_function(check, handler(source))


class Listed:
    """Marks a tuple: a list of distinct values, or one value alone, or a range where there is one."""

    def __init__(self, item: Any, *, range: type[Model] | None = None, empty: bool = False, unique: bool = True):
        self.item, self.range, self.empty, self.unique = item, range, empty, unique

    @cached_property
    def adapter(self) -> TypeAdapter[tuple[Any, ...]]:
        items: Any = GenericAlias(tuple, (self.item, ...))
        return TypeAdapter(items, config=ConfigDict(strict=True))

    def check(self, value: Any) -> Any:
        if self.range and isinstance(value, (Mapping, self.range)):
            return self.range.model_validate(value)
        if value is None or (not self.empty and value in ([], ())):
            found = "nothing" if value is None else "an empty list"
            raise _custom(f"found {found}; at least one value is needed")
        values = self.adapter.validate_python(tuple(value) if isinstance(value, (list, tuple)) else (value,))
        repeated = _repeated(values) if self.unique else None
        if repeated is not None:
            message = f"found {show(values[repeated])} twice; list each value once"
            raise rejection([Problem((repeated,), message)])
        return values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        written = handler(schema)
        forms = written.get("anyOf", [written])
        array = next(form for form in forms if form.get("type") == "array")
        if not self.empty:
            array["minItems"] = 1
        if self.unique:
            array["uniqueItems"] = True
        return {"anyOf": [array["items"], *forms]}


class Choose:
    """Marks a union of kinds: the word or the mapping's key says which, so an error is one message.

    With `bare`, the word alone stands for a mapping without settings below it. With `code`, a word may also be one of
    that kind of plug-in: an import path, or the name that an installed package gives it.
    """

    def __init__(
        self,
        kinds: Mapping[str, type[BaseModel]],
        otherwise: type[BaseModel] | None = None,
        written: str = "",
        bare: bool = False,
        code: type[PlugIn] | None = None,
    ):
        self.kinds, self.otherwise, self.bare, self.code = kinds, otherwise, bare, code
        self.models = tuple(model for model in (otherwise, *kinds.values(), code) if model)
        forms = [word if _is_word(kind) or bare else f"{{{word}: …}}" for word, kind in kinds.items()]
        self.possible = f"{listing([*([written] if written else []), *forms], 'or')} is possible"

    def check(self, value: Any) -> Any:
        if isinstance(value, self.models):
            return value
        if self.bare and isinstance(value, str) and value in self.kinds:
            return self.kinds[value].model_validate({value: {}})
        kind = self._kind(value)
        if kind is None:
            first = next(iter(value), "") if isinstance(value, Mapping) else value
            installed = self._installed()
            hint = nearest(first, [*self.kinds, *installed])
            more = f" (or, of installed packages, {listing(installed, 'or')})" if installed else ""
            raise impossible(value, self.possible + more + (f"; {hint}" if hint else ""))
        return kind.model_validate(value)

    def _kind(self, value: Any) -> type[BaseModel] | None:
        if isinstance(value, str):
            kind = self.kinds.get(value)
            if kind is None and (value.startswith("python:") or value in self._installed()):
                return self.code
            return kind if kind and _is_word(kind) else None
        if not isinstance(value, Mapping):
            return None
        for word, kind in self.kinds.items():
            if word in value and not _is_word(kind):
                return kind
        # A misspelt kind has settings below it, which no weight has.
        return None if any(isinstance(v, (Mapping, list)) for v in value.values()) else self.otherwise

    def _installed(self) -> list[str]:
        """The names that installed packages give to plug-ins."""
        from trainables import plugins

        if self.code is None:
            return []
        try:
            return [*plugins.installed(self.code.plugin, frozenset(self.kinds))]
        except plugins.PluginError as error:
            raise _custom(str(error)) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Without the schemas of the kinds: a sweep uses few of them, and each is built when it is first used.
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        for model in self.models:
            model.model_rebuild()
        written = handler(core_schema.union_schema([model.__pydantic_core_schema__ for model in self.models]))
        return {"anyOf": [{"enum": [*self.kinds]}, written]} if self.bare else written


def _repeated(values: Sequence[object]) -> int | None:
    """The position of the first value that was there before. By representation: mappings have no hash."""
    seen: set[str] = set()
    for position, value in enumerate(values):
        if repr(value) in seen:
            return position
        seen.add(repr(value))
    return None


def _is_word(kind: type[BaseModel]) -> bool:
    return issubclass(kind, Unkeyed)


# Models ---------------------------------------------------------------------------------------------------------------


class Unkeyed(RootModel[Any]):
    """A value of a sweep file that has no keys: a word, or a mapping of the user's own names. One that exists is valid.

    Its `root` says which. (A class of pydantic for each type, as of `RootModel[Literal["grid"]]`, takes a millisecond.)
    """

    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)


class Model(BaseModel):
    """A mapping of a sweep file. One that exists is valid."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _has_its_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        keys = {info.alias or name: info for name, info in cls.model_fields.items()}
        if not isinstance(data, Mapping):
            raise impossible(data, f"a mapping with {_keys(keys)} is possible")
        unknown = [
            Problem((key,), f"found an unknown key {show(key)}; {known(key, [*keys])}")
            for key in data
            if key not in keys
        ]
        missing = [
            Problem((), f"found no {key!r}, which is required: {info.description}")
            for key, info in keys.items()
            if info.is_required() and key not in data
        ]
        if unknown or missing:
            raise rejection(unknown or missing)
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> Any:
        problems = list(self.problems())
        if problems:
            raise rejection(problems)
        return self

    def problems(self) -> Iterator[Problem]:
        """What is impossible about the values together, each of them being possible."""
        yield from ()


class PlugIn(Unkeyed):
    """Code of an installed package, by its import path or by the name that the package gives it."""

    root: str
    plugin: ClassVar[str]  # a key of trainables.plugins.GROUPS

    @property
    def label(self) -> str:
        return self.root

    @model_validator(mode="after")
    def _is_code(self) -> Self:
        from trainables import plugins

        if plugins.is_code(self.root):
            try:
                plugins.parts(self.plugin, self.root)
            except plugins.PluginError as error:
                raise _custom(f"found {show(self.root)}; {error}") from None
        return self


def _keys(keys: Mapping[str, Any]) -> str:
    return f"the key {next(iter(keys))}" if len(keys) == 1 else f"the keys {listing([*keys])}"


# Values ---------------------------------------------------------------------------------------------------------------

MAX_COUNT = 1_000_000_000
MAX_POINTS = 1_000_000  # of one sweep; a grid beyond it is a slip of the pen, and planning it would hang

_count = f"a whole number from 1 to {MAX_COUNT}"

Count = Annotated[int, Field(ge=1, le=MAX_COUNT), expect(_count)]  # of steps, examples, layers
SeedNumber = Annotated[int, Field(ge=0, lt=2**32), expect("a whole number from 0 to 4294967295")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), expect("a number from 0 to 1")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), expect("a finite number of at least 0")]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"),
    expect("a name of up to 64 letters, digits, _ and - that begins with a letter"),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), expect("a finite number above 0")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), expect("a finite number of at least 0")]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), expect("a number of at least 0 and below 1")]
Weights = Annotated[Mapping[Name, Weight], mapping("of components to relative weights")]

# Where None means "as many as there are" or "as the architecture has it", a sweep file has a word for it.
Examples = Annotated[
    Count | None,
    BeforeValidator(lambda v: None if v == "all" else v, json_schema_input_type=Count | Literal["all"] | None),
    expect(f"{_count} or the word all"),
    PlainSerializer(lambda v: "all" if v is None else v, return_type=int | str),
]
Depth = Annotated[
    Count | None,
    BeforeValidator(lambda v: None if v == "default" else v, json_schema_input_type=Count | Literal["default"] | None),
    expect(f"{_count} or the word default"),
    PlainSerializer(lambda v: "default" if v is None else v, return_type=int | str),
]
