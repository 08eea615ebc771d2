"""Configuration files: YAML text to checked models, with every fault of a file in one error.

In: a YAML file, or plain data, and a pydantic model. Out: a frozen model, or `ConfigError` with suggestions.
Must not depend on: what any key means.
"""

from __future__ import annotations

import json
import math
import re
import types
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from evalkit.errors import ConfigError, suggestion
from evalkit.records.canonical import digest

M = TypeVar("M", bound=BaseModel)

_SHOWN = 80
"""Characters of an offending value that an error repeats."""


_NODES = 50_000
"""Values of one file at most, each as often as aliases repeat it."""

_DEPTH = 100
"""Levels of one file at most, aliases included."""

_DIGITS = 100
"""Characters of a number at most: Python reads and writes some thousands in quadratic time, or not at all."""

_UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises for a file that is wrong: its own errors, and Python's for a tag that does not fit its text."""


class Section(BaseModel):
    """Base of every model read from a configuration file: frozen, no unknown keys, no NaN, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MOST_TITLE = 200
"""Characters of a title at most."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that command a terminal, hide text, turn its direction or break a line."""

_LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u0432\u043a\u043c\u043d\u0442"
    "\u03b1\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u0131\u029f\u026a\u0280\u1d04\u1d07\u1d1b\u0493\u1d05",
    "aeopcyxijsdbkmhtaeikvoptuxilircetfd",
)
"""Letters of other scripts, and small capitals, to the Latin letter that they look like."""

_ALIKE = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "|": "l", "!": "l", "3": "e", "4": "a", "@": "a", "5": "s", "7": "t"}
)

OUTCOMES = ("certified", "rejected", "inconclusive", "approved")
"""Words that only a verdict may say."""


def skeleton(text: str) -> str:
    """Return what a text looks like: letters that are taken for one another are one, all else is left out.

    >>> skeleton("Near_L0ss1ess") == skeleton("near-lossless"), skeleton("CERT1F\u0406ED") == skeleton("certified")
    (True, True)
    """
    folded = unicodedata.normalize("NFKD", text).casefold().translate(_LOOKALIKES).translate(_ALIKE)
    plain = "".join(letter for letter in folded if letter.isalnum() and letter.isascii())
    return plain.replace("rn", "m").replace("vv", "w")


def spoken(text: str) -> str:
    """Return a text that its author chose and that stands beside a verdict, if it is no verdict itself.

    Raises:
        ValueError: it holds, or looks like, the word of an outcome.
    """
    word = next((word for word in OUTCOMES if skeleton(word) in skeleton(text)), None)
    if word is not None:
        raise ValueError(f"{text[:_SHOWN]!r} says '{word}', and only a verdict may; choose other words")
    return text


def one_line(text: str) -> str:
    """Return a title, if it is one line of visible text and no verdict.

    Raises:
        ValueError: it holds a control character, a line break or a mark that turns or hides text, begins as a command
            to a build server does, is too long, or says an outcome.
    """
    bad = next((letter for letter in text if unicodedata.category(letter) in _INVISIBLE), None)
    if bad is not None:
        raise ValueError(f"a title is one line of visible text, without U+{ord(bad):04X}")
    if text.lstrip().startswith(("::", "##[")):
        raise ValueError(f"{text[:_SHOWN]!r} begins as a command to a build server does")
    if len(text) > MOST_TITLE:
        raise ValueError(f"a title has at most {MOST_TITLE} characters, this one has {len(text)}")
    return spoken(text)


Title = Annotated[str, AfterValidator(one_line)]
"""One line for people, in its author's own words."""


def read_yaml(path: Path) -> Any:
    """Read one YAML document of plain data.

    Numbers such as `1e-3` are numbers (YAML 1.2), as people expect; PyYAML alone would make them text.

    Raises:
        ConfigError: the file is missing, unreadable or not UTF-8, is not YAML, repeats a key, or holds a NaN or an
            infinity.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(str(path), ["there is no such file"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Read one YAML document from text; `source` names it in errors. See `read_yaml`."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}{error.problem or error.context}"]) from error
    except _UNREADABLE as error:
        shown = str(error)[:_SHOWN] if str(error) else type(error).__name__
        raise ConfigError(source, [f"is not valid YAML: {shown}"]) from error
    faults = [f"'{place}' is {value}; only finite numbers are allowed" for place, value in _non_finite(data)]
    if faults:
        raise ConfigError(source, faults)
    return data


def validate(model_type: type[M], data: Any, source: str) -> M:
    """Check plain data against a model.

    Types are strict (the text "5" is not a number, `yes` is not 1), but a list may become a tuple, a whole number a
    float and a text a path.

    Raises:
        ConfigError: lists every fault: unknown keys and values with the closest allowed word, missing keys, wrong
            types and broken rules, each with its place in the file.
    """
    if not isinstance(data, Mapping):
        shown = "is empty" if data is None else f"holds {_shown(data)}"
        raise ConfigError(source, [f"{shown}; a mapping of keys to values was expected"])
    try:
        # JSON is the one input for which pydantic's strict mode still makes tuples and paths of lists and texts.
        return model_type.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        faults = [_fault(model_type, detail) for detail in error.errors(include_url=False)]
        raise ConfigError(source, list(dict.fromkeys(faults))) from error


def content_sha256(model: BaseModel, *, exclude: Sequence[str] = ()) -> str:
    """Return the sha256 of what a model says: key order, comments and left-out defaults do not matter."""
    return digest(model.model_dump(mode="json", exclude=set(exclude)))


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses repeated keys, of which PyYAML keeps the last silently, and bounds what a file makes.

    Aliases are allowed; a few hundred bytes of them can stand for billions of values, so each is counted as it is used.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._composed, self._level = 0, 0
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value, and know how many values and levels it stands for."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None and not alias:
            self._composed += 1
            self._sizes[id(node)] = self._size(node, mark)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose one word or number."""
        node = super().compose_scalar_node(anchor)
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > _DIGITS:
            raise _refused(f"a number of {len(node.value)} characters; at most {_DIGITS} are read", node.start_mark)
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _refused("half of a surrogate pair, which is no text", node.start_mark)
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        """Compose a list, unless it lies too deep."""
        self._shallow()
        return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, unless it lies too deep."""
        self._shallow()
        return super().compose_mapping_node(anchor)

    def _shallow(self) -> None:
        if self._level > _DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _refused(f"nested deeper than {_DEPTH} levels", mark)

    def _size(self, node: yaml.Node, mark: Any) -> tuple[int, int]:
        """Return values and levels of a node whose parts are known; a part that is not known holds the node itself."""
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        if any(id(part) not in self._sizes for part in parts):
            raise _refused("an alias inside of what it names", mark)
        sizes = [self._sizes[id(part)] for part in parts]
        count, depth = 1 + sum(size for size, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)
        if max(count, self._composed) > _NODES:
            raise _refused(f"stands for more than {_NODES:,} values", mark)
        if depth > _DEPTH:
            raise _refused(f"nested deeper than {_DEPTH} levels, aliases included", mark)
        return count, depth

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag == "tag:yaml.org,2002:bool":  # the key `on` is a word, as in YAML 1.2
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(None, None, "YAML keys must be strings", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"repeated key {key!r}", key_node.start_mark)
            seen.add(key)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep=deep))


def _refused(what: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _non_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _non_finite(child, f"{place}.{key}" if place else str(key))


def _fault(model_type: type[BaseModel], detail: ErrorDetails) -> str:
    """Turn one pydantic error into a sentence with its place and, for a wrong word, the closest right one."""
    types_here, place = _follow(model_type, detail["loc"][:-1])
    last = detail["loc"][-1] if detail["loc"] else None
    here = ".".join([*place, *([] if last is None or _is_tag(types_here, last) else [str(last)])])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        names = sorted({name for model in types_here if _is_model(model) for name in model.model_fields})
        return f"unknown key '{here}'{suggestion(str(last), names)}"
    if kind == "missing":
        return f"missing key '{here}'"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags")))
        if kind == "union_tag_invalid":
            here = ".".join([*filter(None, [here]), str(context["discriminator"]).strip("'")])
        return f"unknown {here} {_shown(context.get('tag', detail['input']))}{_suggest(detail['input'], allowed)}"
    message = str(context["error"]) if kind == "value_error" else _lower_first(detail["msg"].removeprefix("Input "))
    if kind in ("value_error", "assertion_error"):
        return f"{here}: {message}" if here else message
    if kind == "too_short":
        return f"'{here}' must have at least {context['min_length']} item(s), not {context['actual_length']}"
    return f"'{here}' {message.replace('an object', 'a mapping')}, not {_shown(detail['input'])}"


def _suggest(value: Any, allowed: Sequence[str]) -> str:
    return suggestion(value if isinstance(value, str) else repr(value), allowed)


def _follow(model_type: Any, loc: tuple[int | str, ...]) -> tuple[list[Any], list[str]]:
    """Walk an error's location: the types that stand there, and the location without union tags."""
    here, place = list(_alternatives(model_type)), []
    for step in loc:
        inside = [kind for outer in here for kind in _inside(outer, step)]
        if inside:
            here = inside
            place.append(str(step))
        else:
            # pydantic puts the name of the tried alternative of a union into the location; it is not in the file.
            here = [kind for kind in here if getattr(kind, "__name__", "") == step] or here
    return here, place


def _is_tag(here: Sequence[Any], step: int | str) -> bool:
    return any(getattr(kind, "__name__", "") == step for kind in here)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for choice in get_args(annotation):
            yield from _alternatives(choice)
    else:
        yield annotation


def _inside(outer: Any, step: int | str) -> Iterator[Any]:
    if _is_model(outer):
        field = outer.model_fields.get(step)
        if field is not None:
            yield from _alternatives(field.annotation)
        return
    arguments = get_args(outer)
    if arguments and isinstance(step, int):
        yield from _alternatives(arguments[0])
    elif len(arguments) == 2 and isinstance(get_origin(outer), type) and issubclass(get_origin(outer), Mapping):
        yield from _alternatives(arguments[1])


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
