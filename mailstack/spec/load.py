"""Reading a spec file: YAML with marks, the typed model, the checks between values, every problem at once.

A part that is wrong is reported, taken out, and the rest is checked on; so one run reports what one run can
know. Nothing is reported twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mailstack.spec import fields, yaml_nodes
from mailstack.spec.checks import KEY, Broken, check
from mailstack.spec.model import Stack, relative_to
from mailstack.spec.problems import Problem, SpecErrors, nearest
from mailstack.spec.yaml_nodes import Document, Mark

Loc = tuple[str | int, ...]
_ROUNDS = 20
"""How often wrong parts are taken out before giving up; each round takes out all that pydantic reports."""
_STAND_IN: dict[str, Any] = {"stand-in.invalid": {"users": {"nobody": {}}}}
"""For a file whose domains are all wrong, so that the rest is checked."""


def load(path: Path) -> Stack:
    """Read, check and complete the spec at `path`. Raises `SpecErrors`; `OSError` when it cannot be read."""
    shown = str(path)
    with path.open("rb") as file:
        data = file.read(yaml_nodes.MAX_OCTETS + 1)
    if len(data) > yaml_nodes.MAX_OCTETS:
        raise SpecErrors([Problem(shown, 1, 1, "", "the file is larger than 1 MiB; a spec is a page or two")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = "is not UTF-8 text here; save the file as UTF-8"
        raise SpecErrors([Problem(shown, line, column, "", message)]) from None
    folder = path.absolute().parent
    stack = loads(text, shown, project=fields.slug(folder.name) or "mailstack")
    return relative_to(stack, folder)


def loads(text: str, path: str = "mailstack.yaml", *, project: str = "mailstack") -> Stack:
    """Check a spec that is in memory. `project` is the name for one that gives none. Raises `SpecErrors`."""
    try:
        document = yaml_nodes.parse(text)
    except yaml_nodes.YamlError as error:
        raise SpecErrors([Problem(path, error.line, error.column, "", error.message)]) from None
    if document.value is None:
        message = "the file is empty; `mailstack init` writes one, or begin with domains:"
        raise SpecErrors([Problem(path, 1, 1, "", message)])
    if not isinstance(document.value, dict):
        mark = document.mark(())
        message = "a spec is a mapping; begin with domains:"
        raise SpecErrors([Problem(path, mark.line, mark.column, "", message)])
    reader = _Reader(document, path)
    stack = reader.read({"project": project} | document.value)
    if reader.problems or stack is None:
        raise SpecErrors(sorted(set(reader.problems), key=lambda p: (p.line, p.column, p.field, p.message)))
    return stack


class _Reader:
    """One file being checked."""

    def __init__(self, document: Document, path: str) -> None:
        self.document = document
        self.path = path
        self.problems: list[Problem] = []
        self.broken: list[Loc] = []
        self.indexes: dict[Loc, list[int]] = {}
        """Lists that lost items: for each item left, its index in the file."""
        self.names: dict[str, str] = {}
        """A domain's canonical name -> as written."""
        for place, mark, message in document.faults:
            self._add(place, mark, message)

    def read(self, data: dict[str, Any]) -> Stack | None:
        """The checked stack; None when too little of the file is valid to make one."""
        self._domains(data)
        stack = self._validate(data)
        if stack is not None:
            for loc, message in check(stack, Broken([self._canonical(loc) for loc in self.broken])):
                place = self._written(_place(loc))
                self._add(place, self._mark(place, loc[-1] == KEY), message)
        return stack

    def _validate(self, data: dict[str, Any]) -> Stack | None:
        for _ in range(_ROUNDS):
            try:
                return Stack.model_validate(data)
            except ValidationError as error:
                faults = error.errors(include_url=False, include_input=True)
            for fault in faults:
                self._report(fault)
            if any(fault["type"] in ("missing", "too_short") for fault in faults):
                data["domains"] = _STAND_IN
            # From the last place to the first, so that list indexes still hold while items go.
            wrong = sorted({_place(fault["loc"]) for fault in faults}, key=lambda loc: list(map(_order, loc)))
            for loc in reversed(wrong):
                self._remove(data, loc)
        return None

    def _remove(self, data: Any, loc: Loc) -> None:
        """Take the wrong value at `loc` out of `data`.

        A user stays a user whatever is wrong below it, so that aliases to it are not called wrong as well.
        """
        parent = data
        for part in loc[:-1]:
            try:
                parent = parent[part]
            except (KeyError, IndexError, TypeError):
                return
        last = loc[-1] if loc else None
        if isinstance(parent, list) and isinstance(last, int) and last < len(parent):
            indexes = self.indexes.setdefault(self._original(loc[:-1]), list(range(len(parent))))
            del indexes[last], parent[last]
        elif not isinstance(parent, dict) or last not in parent or parent[last] is _STAND_IN:
            return
        elif len(loc) == 4 and loc[2] == "users" and not isinstance(parent[last], dict):
            parent[last] = {}
        else:
            del parent[last]

    def _original(self, loc: Loc) -> Loc:
        """`loc` as it was before list items were taken out."""
        result: Loc = ()
        for part in loc:
            indexes = self.indexes.get(result)
            result = (*result, indexes[part] if indexes is not None and isinstance(part, int) else part)
        return result

    def _domains(self, data: dict[str, Any]) -> None:
        """Find keys of `domains` that are the same name written twice."""
        domains = data.get("domains")
        if not isinstance(domains, dict):
            return
        for written in list(domains):
            try:
                name = fields.host_name(written)
            except ValueError:
                continue
            if name in self.names:
                first = self.document.mark(("domains", self.names[name]), key=True)
                message = f"is {name}, which line {first.line} has already; merge the two"
                self._add(("domains", written), self._mark(("domains", written), True), message)
                del domains[written]
            else:
                self.names[name] = written

    def _report(self, fault: Any) -> None:
        loc = self._original(_place(fault["loc"]))
        if fault["type"] in ("missing", "too_short") and any(
            known[: len(loc)] == loc for known in self.broken
        ):
            return  # what was there has been reported already
        is_key = fault["loc"][-1:] == (KEY,)
        kind = fault["type"]
        about_key = is_key or kind == "extra_forbidden"
        message = self._message(fault, loc)
        self.broken.append(loc)
        self._add(loc, self._mark(loc, about_key), message)

    def _message(self, fault: Any, loc: Loc) -> str:
        match fault["type"]:
            case "value_error":
                return str(fault["ctx"]["error"])
            case "extra_forbidden":
                return _unknown_key(loc)
            case "missing" | "too_short":
                return "is missing; write at least one domain, such as example.test: {users: {anna: {}}}"
            case "text_wanted":
                return self._not_text(fault["input"], loc)
            case "model_type" | "dict_type" | "model_attributes_type":
                return "a mapping is wanted here; write `key: value` lines below it, or {}"
            case "tuple_type":
                return "a list is wanted here; write [one, two], or [] for none"
            case "int_type" | "int_parsing" | "int_from_float" | "bool_type":
                return "a whole number is wanted here; write one such as 2525"
            case _:
                return f"{fault['msg']}; see `mailstack schema`"

    def _not_text(self, value: object, loc: Loc) -> str:
        if isinstance(value, (dict, list, tuple)):
            return "a single value is wanted here, not a list or mapping; write one text"
        raw = self.document.mark(loc).raw
        if value is None:
            return "has no value; write one, or remove the key"
        kind = "true or false" if isinstance(value, bool) else "a number"
        shown = fields.printable(str(raw))
        return f'{shown} is {kind} in YAML; put it in quotes: "{shown}"'

    def _mark(self, loc: Loc, key: bool) -> Mark:
        """Where to point: at the value; at the key when that is the matter, or the value is a collection."""
        mark = self.document.mark(loc, key=key)
        if not key and mark.raw is None:
            return self.document.mark(loc, key=True)
        return mark

    def _written(self, loc: Loc) -> Loc:
        """A canonical place as it stands in the file."""
        if len(loc) > 1 and loc[0] == "domains":
            loc = ("domains", self.names.get(str(loc[1]), loc[1]), *loc[2:])
        return self._original(loc)

    def _canonical(self, loc: Loc) -> Loc:
        if len(loc) > 1 and loc[0] == "domains":
            try:
                return ("domains", fields.host_name(str(loc[1])), *loc[2:])
            except ValueError:
                pass
        return loc

    def _add(self, loc: Loc, mark: Mark, message: str) -> None:
        self.problems.append(Problem(self.path, mark.line, mark.column, _dotted(loc), message))


def _place(loc: Loc) -> Loc:
    """Where a fault of pydantic's is; a wrong key counts as its value's place."""
    return loc[:-1] if loc[-1:] == (KEY,) else loc


def _order(part: str | int) -> tuple[int, str]:
    return (part, "") if isinstance(part, int) else (-1, part)


def _dotted(loc: Loc) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{fields.printable(part)[:80]}" if text else fields.printable(part)[:80]
    return text


def _unknown_key(loc: Loc) -> str:
    """Name the key that was probably meant, or the place where this one belongs."""
    known = tuple(_model_at(loc[:-1]).model_fields)
    word = str(loc[-1])
    for place, fields_here in _all_keys(Stack, ""):
        if word in fields_here:
            return f"is not known here; it belongs {f'under {place}' if place else 'at the top of the file'}"
    hint = nearest(word, known)
    if hint is not None:
        return f"is not known here; did you mean {hint}?"
    return f"is not known here; known are {', '.join(known)}"


def _all_keys(model: type[BaseModel], place: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield place, tuple(model.model_fields)
    for name, field in model.model_fields.items():
        inner, is_map = _inner(field.annotation)
        if inner is not None:
            where = f"{place}.{name}" if place else name
            yield from _all_keys(inner, f"{where}.<{name.removesuffix('s')}>" if is_map else where)


def _model_at(loc: Loc) -> type[BaseModel]:
    """The model whose keys stand at `loc`."""
    model: type[BaseModel] = Stack
    rest = list(loc)
    while rest:
        field = model.model_fields.get(str(rest.pop(0)))
        inner, is_map = _inner(field.annotation) if field is not None else (None, False)
        if inner is None:
            break
        model = inner
        if is_map and rest:
            rest.pop(0)
    return model


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside a field's type, and whether it is the value of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        found, _ = _inner(argument)
        if found is not None:
            return found, True
    return None, False
