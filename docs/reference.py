"""What of the pages is made from the program: the keys of a sweep file, the datasets, the orderings.

MkDocs calls `on_page_markdown` for every page: a line `<!-- generated: NAME -->` becomes what the function of that name
in GENERATED returns.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from orchestrator.orderings import ORDERINGS
from orchestrator.sweep import json_schema
from trainables import ordering
from trainables.catalogue import CATALOGUE, Option

Schema = Mapping[str, Any]

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)

# What `vary.ordering` may list, for components called clothes and digits.
EXAMPLES = {
    "shuffled": "shuffled",
    "sequential": "{sequential: [clothes, digits]}",
    "blocked": "{blocked: {sequence: [clothes, digits], repeats: 4}}",
    "annealed": "{annealed: {from: {clothes: 1}, to: {digits: 1}}}",
    "curriculum": "{curriculum: easy_first}",
    "withheld": "{withheld: {component: digits, from: 0.25, until: 0.75}}",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its generated parts. A hook of MkDocs."""
    return MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)


# Sweep files ----------------------------------------------------------------------------------------------------------


def keys() -> str:
    """Every key of a sweep file: what may stand there, its default and its meaning."""
    return "\n\n".join(_Keys(json_schema()).sections())


class _Keys:
    """The JSON Schema of sweep files as sections of Markdown.

    A key that leads to one model has a section with that model's keys. A key that leads to several has one with these
    kinds, of which one is chosen, each followed by the settings that it has. A model that several keys lead to has its
    section where the first of them has.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema, self._models = schema, schema["$defs"]
        self._tops = [name for written in schema["properties"].values() for name in _references(written)]
        self._found: dict[tuple[str, ...], str] = {}  # models to the place of their section, in the order of the page
        self._walk("", schema)

    def sections(self) -> Iterator[str]:
        yield self._table(self._schema)
        for models, place in self._found.items():
            yield f"{'##' if '.' not in place.removesuffix('.NAME') else '###'} `{place}` {{ #{_anchor(place)} }}"
            if len(models) > 1:
                rows = [(self._form(name), _cell(self._models[name]["description"])) for name in models]
                yield "One of:\n\n" + _table(("written", "meaning"), rows)
            else:
                yield _cell(self._models[models[0]]["description"])
                yield self._table(self._models[models[0]])

    def _walk(self, path: str, model: Schema) -> None:
        for key, written in model["properties"].items():
            place = f"{path}.{key}".strip(".") + (".NAME" if key == "components" and not path else "")
            models = self._refers(written)
            if not models or models in self._found or (path and models[0] in self._tops):
                continue
            if len(models) > 1 or self._keys_of(models[0]):
                self._found[models] = place
                for name in filter(self._keys_of, models):
                    self._walk(place, self._models[name])

    def _keys_of(self, name: str) -> Schema:
        return self._models[name].get("properties", {})

    def _refers(self, written: Any) -> tuple[str, ...]:
        """The models that a schema leads to, each once."""
        return tuple(dict.fromkeys(self._like_a_top_level_key(name) for name in _references(written)))

    def _like_a_top_level_key(self, name: str) -> str:
        """`vary.training` has the keys of `pretrain`."""
        keys = self._keys_of(name)
        return next((top for top in self._tops if keys and self._keys_of(top) == keys), name)

    def _table(self, model: Schema) -> str:
        rows = [
            (f"`{key}`", self._says(written), _default(key in model.get("required", ()), written), _meaning(written))
            for key, written in model["properties"].items()
        ]
        return _table(("key", "what may stand there", "default", "meaning"), rows)

    def _form(self, name: str) -> str:
        """How a kind is written."""
        model = self._models[name]
        if "const" in model:
            return f"`{model['const']}`"
        if "properties" not in model:
            return self._says(model)
        ((word, written),) = model["properties"].items()
        inner = self._refers(written)
        if inner and not self._keys_of(inner[0]):
            return f"`{word}`"
        return f"`{{{word}: …}}`: {self._says(written)}"

    def _says(self, written: Schema) -> str:
        """What may stand at a place, in words."""
        models = self._refers(written)
        if len(models) > 1:
            several = "one or a list" if _lists(written) else "one"
            return f"{several} of [these](#{_anchor(self._found[models])})"
        if "$ref" in written:
            place = self._found.get(models)
            return f"a mapping with [these keys](#{_anchor(place)})" if place else self._says(self._models[models[0]])
        if "anyOf" in written:
            said = [self._says(form) for form in written["anyOf"] if form != {"type": "null"}]
            listed = {text for text in said if f"a list: {text}" in said}
            return ", or ".join(
                f"{text}, or a list" if text in listed else text
                for text in dict.fromkeys(said)
                if text.removeprefix("a list: ") not in listed or text in listed
            )
        return self._plain(written)

    def _plain(self, written: Schema) -> str:
        if "const" in written or "enum" in written:
            return " or ".join(f"`{_flow(value)}`" for value in written.get("enum", [written.get("const")]))
        match written.get("type"):
            case "boolean":
                return "`true` or `false`"
            case "integer":
                return f"a whole number{_bounds(written)}"
            case "number":
                return f"a number{_bounds(written)}"
            case "array" if "prefixItems" in written:
                return f"two in brackets, each {self._says(written['prefixItems'][0])}"
            case "array":
                return f"a list: {self._says(written['items'])}"
            case "object":
                values = [*written.get("patternProperties", {}).values(), written.get("additionalProperties")]
                names = " or ".join(f"`{name}`" for name in written.get("propertyNames", {}).get("enum", ()))
                return f"a mapping of {names or 'names'} to {self._says(values[0])}"
        return "text"


def _references(written: Any) -> Iterator[str]:
    """Every model that a schema names."""
    if isinstance(written, Mapping):
        if "$ref" in written:
            yield written["$ref"].rpartition("/")[2]
        written = list(written.values())
    if isinstance(written, list):
        for part in written:
            yield from _references(part)


def _lists(written: Schema) -> bool:
    return any(form.get("type") == "array" for form in written.get("anyOf", ()))


def _bounds(written: Schema) -> str:
    low, high = written.get("minimum"), written.get("maximum")
    above, below = written.get("exclusiveMinimum"), written.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    said = [
        f" of at least {low:,}" if low is not None else "",
        f" above {above:,}" if above is not None else "",
        f" below {below:,}" if below is not None else "",
        f" of at most {high:,}" if high is not None else "",
    ]
    return " and".join(filter(None, said))


def _default(required: bool, written: Schema) -> str:
    if required:
        return "required"
    value = written.get("default")
    if value in (None, [None]):
        return ""
    return "" if isinstance(value, Mapping) and value else f"`{_flow(value)}`"


def _meaning(written: Schema) -> str:
    return _cell(written.get("description", ""))


# Datasets and orderings -----------------------------------------------------------------------------------------------


def datasets() -> str:
    """The catalogue, and the options of each of its datasets."""
    rows = [(f"`{name}`", _cell(dataset.title), _options(dataset.options)) for name, dataset in CATALOGUE.items()]
    return _table(("dataset", "what it is", "options"), rows)


def _options(options: Mapping[str, Option] | None) -> str:
    return "<br>".join(
        f"`{name}`: {_cell(option.meaning)}{_values(option)}" for name, option in (options or {}).items()
    )


def _values(option: Option) -> str:
    possible = ", ".join(f"`{_flow(choice)}`" for choice in option.choices)
    if option.within:
        possible = "from {:g} to {:g}".format(*option.within)
    default = "required" if option.required else "" if option.default is None else f"default `{_flow(option.default)}`"
    said = "; ".join(filter(None, (possible, default)))
    return f" ({said})" if said else ""


def orderings() -> str:
    """Each ordering: what it does, its picture, and how a sweep file asks for it."""
    return "\n\n".join(_ordering(kind) for kind in ORDERINGS)


def _ordering(kind: str) -> str:
    said = inspect.cleandoc(ordering.ORDERINGS[kind].__doc__ or "").partition("\n\n")[0]
    settings = "" if kind == "shuffled" else f" [Its keys](sweep-file.md#{_anchor('vary.ordering')})."
    sweep = f"vary:\n  mixture: {{clothes: 1, digits: 1}}\n  ordering: {EXAMPLES[kind]}"
    return (
        f"## {kind}\n\n{_cell(said)}{settings}\n\n"
        f"![{kind}: when the examples of each component come](images/ordering-{kind}.svg)\n\n```yaml\n{sweep}\n```"
    )


GENERATED: Mapping[str, Callable[[], str]] = {
    "keys": keys,
    "datasets": datasets,
    "orderings": orderings,
}


# Markdown -------------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _cell(text: str) -> str:
    """A text in one line, as it is."""
    return re.sub(r"([|<{])", r"\\\1", " ".join(text.split()))


def _anchor(place: str) -> str:
    return re.sub(r"\W", "-", place).lower()


def _flow(value: Any) -> str:
    """A value as a sweep file has it."""
    if isinstance(value, (Mapping, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return json.dumps(value).strip('"')
