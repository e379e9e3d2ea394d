"""Fingerprints of code, from syntax trees: comments, docstrings and formatting change nothing.

A stage is covered as far as it reaches, in whatever folder the code lies that is not an installed package: its own
function, and all that this uses and imports in turn. Orchestration is followed by definition, so that a stage is not
made again because its neighbour in the same file changed; all other code is followed by whole modules, as importing a
module runs all of it. Of files that are not Python those count that a module names and that lie beside or below it (C
sources, catalogues).
What is reached and left out stands in `CANNOT_CHANGE_A_RESULT`. Nothing is imported or run to find this out.

What an import cannot tell is not covered: modules and files that are found by a computed name, installed packages.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# Modules (with all below them) and definitions ("module:name") that a stage reaches and that are no part of its key,
# each with the reason. Whatever is not named here counts.
CANNOT_CHANGE_A_RESULT = {
    "flows.engine.work": "hands folders in, takes logs, progress and costs out; a saved state comes back bit for bit",
    "flows.engine.utilization": "measures speed and memory, which the metrics show and no artifact holds",
    "flows.settings": "compute settings are execution, and an error makes no artifact",
    "storage.artifacts": "a handle names the bytes that its key stands for, and they are read as they were sealed",
    "storage.durable": "writes the bytes that it is handed, all of them or none",
}
# Followed by definition, as is the module of the stage itself.
_BY_DEFINITION = ("flows", "storage")
# Ours wherever they lie, be it that Lifespan itself was installed as a package.
_OURS = ("flows", "components", "storage", "dashboards")
# A decorator of this name only registers the function; its arguments (the group that a table shows) are no code.
_MARKERS = frozenset({"stage"})

_WHOLE = ""  # in place of a definition's name: the whole module
_ON_IMPORT = "(on import)"  # statements that bind no name, as a call
_ALWAYS = (_ON_IMPORT, "*")  # run or bind whatever a stage uses of their module
_Target = tuple[str, str]  # module, name of a definition


def code_fingerprint(function: Callable[..., Any]) -> dict[str, str]:
    """Digests of all code that `function` reaches, by name: "module:definition", or "module" for a whole one.

    Cached per process, and files are read once: an edit while a process runs counts from its next start, as it does
    for the code that the process runs.

    Args:
        function: a plain function, or something that wraps one (`functools.wraps`).

    Raises:
        TypeError: no Python function with a source file.
        SyntaxError: a source file that is reached does not parse.
    """
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        raise TypeError(f"{function!r}: its code cannot be fingerprinted; a stage must be a function in a source file")
    return dict(_fingerprint(plain.__module__, Path(code.co_filename).resolve(), code.co_firstlineno, plain.__name__))


def file_fingerprint(file: Path) -> dict[str, str]:
    """Digests of a Python file that is in no package of ours, of the modules beside it that it imports, in turn, and of
    other files beside them that they name; by their paths below its folder. Read anew at every call.

    Raises SyntaxError where one does not parse, OSError where one cannot be read.
    """
    folder = file.resolve().parent
    found: dict[str, str] = {}
    waiting = [file.resolve()]
    while waiting:
        place = waiting.pop()
        name = str(place.relative_to(folder))
        if name in found:
            continue
        module = ".".join(place.relative_to(folder).with_suffix("").parts)
        tree = ast.parse(place.read_bytes(), filename=str(place))
        source = _Source(module, place, _stripped(tree.body, may_open_with_text=True))
        found[name] = source.whole.digest
        for target, inner in source.whole.imports:
            for one in (target, f"{target}.{inner}" if inner else target):
                bare = folder.joinpath(*one.split("."))
                waiting += [path for path in (bare.with_suffix(".py"), bare / "__init__.py") if one and path.is_file()]
    return dict(sorted(found.items()))


def forget_sources() -> None:
    """Read all source files again at the next call: for a long-lived process, and for tests."""
    for cached in (_fingerprint, _source, _locate, _is_ours):
        cached.cache_clear()
    importlib.invalidate_caches()


@cache
def _fingerprint(module: str, file: Path, line: int, name: str) -> dict[str, str]:
    own = _source(module, file)
    root = _statement_at(own, line, name)
    label = getattr(root, "name", None) or f"line {root.lineno}"
    code = own.examine([_without_marker(root)])
    digests = {f"{module}:{label}": code.digest}
    found: set[_Target] = {(module, label)}
    waiting = [*own.leads(code), *_parents(module)]
    while waiting:
        target = waiting.pop()
        if target in found or _cannot_change_a_result(*target):
            continue
        found.add(target)
        reached, name = target
        source = own if reached == module else _source(reached, _place(reached))
        waiting += _parents(reached)
        if name == _WHOLE:
            digests[reached] = source.whole.digest
            waiting += _targets(source.whole.imports)
        else:
            waiting += source.leads(source.definition(name))
            if digest := source.definition(name).digest:
                digests[f"{reached}:{name}"] = digest
    return dict(sorted(digests.items()))


def _cannot_change_a_result(module: str, name: str) -> bool:
    parts = module.split(".")
    above = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return f"{module}:{name}" in CANNOT_CHANGE_A_RESULT or any(one in CANNOT_CHANGE_A_RESULT for one in above)


@dataclass(frozen=True)
class _Code:
    """What a piece of code says and leads to.

    Attributes:
        digest: of its tree and of the files beside its module that it names; empty for nothing but imports.
        names: that it uses, in whatever scope.
        imports: (module, name), the name None for `import module`.
    """

    digest: str
    names: frozenset[str]
    imports: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, eq=False)
class _Source:
    """A parsed module: statements of its top level, without docstrings and type-checking blocks."""

    module: str
    file: Path
    body: list[ast.stmt]
    _definitions: dict[str, _Code] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return self.module if self.file.name == "__init__.py" else self.module.rpartition(".")[0]

    @cached_property
    def bindings(self) -> dict[str, list[ast.stmt]]:
        """The statements of the top level that bind a name, or change what it is bound to."""
        found: dict[str, list[ast.stmt]] = {}
        for item in self.body:
            for name in dict.fromkeys(_bound(item)) or (_ON_IMPORT,):
                found.setdefault(name, []).append(item)
        return found

    @cached_property
    def whole(self) -> _Code:
        return self.examine(self.body, whole=True)

    @cached_property
    def only_imports(self) -> bool:
        return all(_is_import(item) for item in self.body)

    def definition(self, name: str) -> _Code:
        """All that binds a name in this module; of an import statement, only what it imports by that name."""
        if name not in self._definitions:
            items = self.bindings.get(name, ())
            self._definitions[name] = self.examine([_only(item, name) for item in items])
        return self._definitions[name]

    def leads(self, code: _Code) -> Iterator[_Target]:
        """What a part of this module leads to: other definitions of the module, and what is imported."""
        yield from ((self.module, name) for name in (*code.names, *_ALWAYS) if name in self.bindings)
        yield from _targets(code.imports)

    def examine(self, items: list[ast.stmt], *, whole: bool = False) -> _Code:
        seen = _Seen()
        for item in items:
            if isinstance(item, (ast.Import, ast.ImportFrom)) and not whole:
                seen.importing.append(item)  # what it binds is followed: how it is spelled is no code
            else:
                _dump(item, seen)
        folder = self.file.parent
        files = {file for pattern in seen.files for file in folder.glob(pattern) if file.suffix != ".py"}
        for file in sorted(files):
            seen.pieces.append(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}")
        imports = (target for node in seen.importing for target in _imported(node, self))
        text = "".join(seen.pieces).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(text).hexdigest() if text or whole else ""
        return _Code(digest, frozenset(seen.names), tuple(dict.fromkeys(imports)))


@cache
def _source(module: str, file: Path) -> _Source:
    tree = ast.parse(file.read_bytes(), filename=str(file))
    return _Source(module, file, _stripped(tree.body, may_open_with_text=True))


def _stripped(body: list[ast.stmt], *, may_open_with_text: bool = False) -> list[ast.stmt]:
    """Statements without docstrings and without what only a type checker sees. Changes what they contain in place."""
    first = body[0] if body else None
    if may_open_with_text and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = body[1:] if isinstance(first.value.value, str) else body
    kept: list[ast.stmt] = []
    for item in body:
        if isinstance(item, ast.If) and _last_name(item.test) == "TYPE_CHECKING":
            kept += _stripped(item.orelse)
            continue
        opens_with_text = isinstance(item, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        parts = [item, *getattr(item, "handlers", ()), *getattr(item, "cases", ())]  # of `try`, of `match`
        for part in parts:
            for name in ("body", "orelse", "finalbody"):
                if inner := getattr(part, name, None):
                    setattr(part, name, _stripped(inner, may_open_with_text=opens_with_text))
        kept.append(item)
    return kept


def _last_name(node: ast.AST) -> str | None:
    """`c` of `a.b.c`, of `a.b.c(…)` and of `c`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


# Inside a module


def _statement_at(source: _Source, line: int, name: str) -> ast.stmt:
    """The top-level statement that holds the function: for a nested one, what it is nested in."""
    for item in source.body:
        decorators = getattr(item, "decorator_list", [])
        first = min([item.lineno, *(node.lineno for node in decorators)])
        if first <= line <= (item.end_lineno or item.lineno):
            return item
    raise TypeError(f"{source.file}, line {line}: no definition of {name} there; was the file edited while it ran?")


def _bound(item: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds; of a block (`if`, `try`, `with`, `for`), all within."""
    if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield item.name
    elif isinstance(item, (ast.Import, ast.ImportFrom)):
        for alias in item.names:
            yield alias.asname or alias.name.split(".")[0]
    else:
        for node in ast.walk(item):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id
            elif isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _bound(node)
        if target := _changed(item):
            yield target


def _changed(item: ast.stmt) -> str | None:
    """`REGISTRY` of `REGISTRY["x"] = f`, which changes a name that another statement bound."""
    node: ast.AST | None = item.targets[0] if isinstance(item, ast.Assign) else None
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _only(item: ast.stmt, name: str) -> ast.stmt:
    """Of an import statement only the aliases that bind `name`; of a function all but its marker."""
    if isinstance(item, (ast.Import, ast.ImportFrom)):
        names = [alias for alias in item.names if (alias.asname or alias.name.split(".")[0]) == name]
        if isinstance(item, ast.Import):
            return ast.Import(names=names)
        return ast.ImportFrom(module=item.module, names=names, level=item.level)
    return _without_marker(item)


def _without_marker(item: ast.stmt) -> ast.stmt:
    if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return item
    fields = dict(ast.iter_fields(item))
    fields["decorator_list"] = [node for node in item.decorator_list if _last_name(node) not in _MARKERS]
    return type(item)(**fields, lineno=item.lineno)


# Between modules


def _imported(node: ast.AST, source: _Source) -> Iterator[tuple[str, str | None]]:
    """Module and name that a node imports; the name None for `import module`."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            steps = source.package.split(".")
            base = ".".join([*steps[: len(steps) - node.level + 1], *([base] if base else [])])
        yield from ((base, alias.name) for alias in node.names)
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__") and node.args:
        target = node.args[0]
        if isinstance(target, ast.Constant) and isinstance(target.value, str) and not target.value.startswith("."):
            yield target.value, None


def _targets(imports: Iterable[tuple[str, str | None]]) -> Iterator[_Target]:
    """What is to be followed of these imports: definitions of orchestration, whole modules of all else that is ours."""
    for module, name in imports:
        place = _locate(module) if _is_ours(module.split(".")[0]) else None
        if place is None:
            continue
        inner = f"{module}.{name}" if name and _locate(f"{module}.{name}") else None
        if inner:  # `from a import b`, where b is a module
            yield inner, _WHOLE
        if name is None or module.split(".")[0] not in _BY_DEFINITION:
            yield module, _WHOLE
        elif name in _source(module, place).bindings:
            yield module, name
        elif not inner:  # `*`, or a name that the module makes in some other way
            yield module, _WHOLE


def _parents(module: str) -> Iterator[_Target]:
    """Importing a.b.c runs a and a.b first. One that only imports cannot change what c does; any other can."""
    parts = module.split(".")
    for count in range(1, len(parts)):
        parent = ".".join(parts[:count])
        place = _locate(parent)
        if place and not _source(parent, place).only_imports:
            yield parent, _WHOLE


def _is_import(item: ast.stmt) -> bool:
    return isinstance(item, (ast.Import, ast.ImportFrom)) or (
        isinstance(item, ast.Assign) and [_last_name(target) for target in item.targets] == ["__all__"]
    )


@cache
def _is_ours(top: str) -> bool:
    """True for code that is neither Python's own nor installed as a package."""
    if top in _OURS or top in sys.stdlib_module_names:
        return top in _OURS
    spec = _spec(top)
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])] if spec else []
    folder = Path(places[0]).parent if places else None
    return folder is not None and not any(folder.glob("*.dist-info"))


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)  # of a top-level name this imports nothing
    except ValueError:  # a module without one, as `__main__` of a script
        return None


def _place(name: str) -> Path:
    file = _locate(name)
    assert file is not None, f"{name} was found before"
    return file


@cache
def _locate(name: str) -> Path | None:
    """Source file of a module, found without importing it or its parents; None when there is no such module."""
    top, *rest = name.split(".")
    spec = _spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.has_location else None
    for base in spec.submodule_search_locations or ():
        place = Path(base, *rest)
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


# From trees to text


@dataclass
class _Seen:
    """What `_dump` came across: text, nodes that may import something, names in use, what may be names of files."""

    pieces: list[str] = field(default_factory=list)
    importing: list[ast.AST] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


_NO_CODE = frozenset({"kind", "ctx", "type_comment"})  # the u of u"", what the place tells, a comment
_FILES = re.compile(r"(?:[\w-]+/)*[\w-]*\*?[\w-]*\.\w+")


def _dump(node: Any, seen: _Seen) -> None:
    """Like `ast.dump`, but without empty fields, which come and go between Python versions."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Name):
            seen.names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
            seen.importing.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILES.fullmatch(node.value):
            seen.files.add(node.value)
        seen.pieces.append(f"{type(node).__name__}(")
        for name in node._fields:
            if name in _NO_CODE:
                continue
            value = getattr(node, name, None)
            if (value is None and name != "value") or value == []:
                continue
            seen.pieces.append(f"{name}=")
            if isinstance(value, (ast.AST, list)):
                _dump(value, seen)
            else:
                seen.pieces.append(repr(value))
        seen.pieces.append(")")
    elif isinstance(node, list):
        for item in node:
            _dump(item, seen)
            seen.pieces.append(",")
    else:
        seen.pieces.append(repr(node))
