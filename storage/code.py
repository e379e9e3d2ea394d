"""Fingerprints of code, from syntax trees: comments, docstrings and formatting change nothing.

A stage is covered as far as it reaches: its own function, what that uses in the same module, and every module of the
given packages that these import, with all that those import in turn. Nothing is imported or run to find this out.

What an import cannot tell is not covered: modules that are found by a computed name, data files, other packages.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# A decorator of this name only registers the function; its arguments (the group that a table shows) are no code.
_MARKERS = frozenset({"stage"})


def code_fingerprint(function: Callable[..., Any], packages: Sequence[str] = ("components",)) -> dict[str, str]:
    """Digests of all code that `function` reaches, by name: "module:definition" in its own module, else "module".

    Cached per process, and files are read once: an edit while a process runs counts from its next start, as it does
    for the code that the process runs.

    Args:
        function: a plain function, or something that wraps one (`functools.wraps`).
        packages: top-level packages whose modules are followed.

    Raises:
        TypeError: no Python function with a source file.
        SyntaxError: a source file that is reached does not parse.
    """
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        raise TypeError(f"{function!r}: its code cannot be fingerprinted; a stage must be a function in a source file")
    file, line, module = Path(code.co_filename), code.co_firstlineno, plain.__module__
    return dict(_fingerprint(file.resolve(), line, plain.__name__, module, tuple(packages)))


def forget_sources() -> None:
    """Read all source files again at the next call: for a long-lived process, and for tests."""
    for cached in (_fingerprint, _module, _locate):
        cached.cache_clear()
    importlib.invalidate_caches()


@cache
def _fingerprint(file: Path, line: int, name: str, module: str, packages: tuple[str, ...]) -> dict[str, str]:
    source = _read(file, module, is_package=file.name == "__init__.py")
    reached = _reach(source, _statement_at(source, line, name))
    digests = {}
    for label, nodes in reached.definitions.items():
        pieces: list[str] = []
        _dump(nodes, pieces, [])
        digests[f"{module}:{label}"] = _digest(pieces)
    for target in _closure(reached.modules(source, packages), packages):
        digests[target] = _module(target).digest
    return dict(sorted(digests.items()))


@dataclass(frozen=True)
class _Source:
    """A parsed module: statements of its top level, without docstrings and type-checking blocks."""

    module: str
    is_package: bool
    file: Path
    body: list[ast.stmt]

    @property
    def package(self) -> str:
        return self.module if self.is_package else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class _Module:
    """What the closure needs of a module: its digest, and every name in dotted form that it imports."""

    digest: str
    imports: frozenset[str]
    only_imports: bool


@dataclass
class _Reached:
    """What a function reaches in its own module: definitions by name, and the import statements in use."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: list[ast.AST] = field(default_factory=list)

    def modules(self, source: _Source, packages: tuple[str, ...]) -> list[str]:
        nodes = [
            *self.imports,
            *(node for body in self.definitions.values() for item in body for node in ast.walk(item)),
        ]
        return [name for node in nodes for name in _imported(node, source) if name.split(".")[0] in packages]


def _read(file: Path, module: str, *, is_package: bool) -> _Source:
    tree = ast.parse(file.read_bytes(), filename=str(file))
    return _Source(module, is_package, file, _stripped(tree.body, may_open_with_text=True))


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


# Inside the function's module


def _statement_at(source: _Source, line: int, name: str) -> ast.stmt:
    """The top-level statement that holds the function: for a nested one, what it is nested in."""
    for item in source.body:
        decorators = getattr(item, "decorator_list", [])
        first = min([item.lineno, *(node.lineno for node in decorators)])
        if first <= line <= (item.end_lineno or item.lineno):
            return item
    raise TypeError(f"{source.file}, line {line}: no definition of {name} there; was the file edited while it ran?")


def _reach(source: _Source, root: ast.stmt) -> _Reached:
    bindings: dict[str, list[ast.stmt]] = {}
    for item in source.body:
        for name in _bound(item):
            bindings.setdefault(name, []).append(item)
    reached = _Reached()
    label = getattr(root, "name", None) or f"line {root.lineno}"
    reached.definitions[label] = [_without_marker(root)]
    # `from x import *` may bind any name: count it as used.
    reached.imports += [item for item in source.body if isinstance(item, ast.ImportFrom) and item.names[0].name == "*"]
    seen: set[str] = set()
    waiting = _used(reached.definitions[label][0])
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for item in bindings.get(name, ()):
            if isinstance(item, (ast.Import, ast.ImportFrom)):
                reached.imports.append(_only(item, name))
            elif item is not root:
                body = reached.definitions.setdefault(name, [])
                body.append(item)
                waiting |= _used(item)
    return reached


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
        # `REGISTRY["x"] = f` and `REGISTRY.update(…)` change a name that another statement bound
        target = _changed(item)
        if target:
            yield target


def _changed(item: ast.stmt) -> str | None:
    node: ast.AST | None = None
    if isinstance(item, ast.Assign) and isinstance(item.targets[0], (ast.Subscript, ast.Attribute)):
        node = item.targets[0]
    elif isinstance(item, ast.Expr) and isinstance(item.value, ast.Call) and isinstance(item.value.func, ast.Attribute):
        node = item.value.func
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _used(item: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(item) if isinstance(node, ast.Name)}


def _only(item: ast.Import | ast.ImportFrom, name: str) -> ast.Import | ast.ImportFrom:
    """The import statement with only the aliases that bind `name`."""
    names = [alias for alias in item.names if (alias.asname or alias.name.split(".")[0]) == name]
    if isinstance(item, ast.Import):
        return ast.Import(names=names)
    return ast.ImportFrom(module=item.module, names=names, level=item.level)


def _without_marker(item: ast.stmt) -> ast.stmt:
    if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return item
    fields = dict(ast.iter_fields(item))
    fields["decorator_list"] = [node for node in item.decorator_list if _last_name(node) not in _MARKERS]
    return type(item)(**fields, lineno=item.lineno)


# Between modules


def _imported(node: ast.AST, source: _Source) -> Iterator[str]:
    """Dotted names that a node imports: of `from a import b` both `a` and `a.b`, as `b` may be a module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            steps = source.package.split(".")
            base = ".".join([*steps[: len(steps) - node.level + 1], *([base] if base else [])])
        yield base
        for alias in node.names:
            yield f"{base}.{alias.name}"
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__") and node.args:
        target = node.args[0]
        if isinstance(target, ast.Constant) and isinstance(target.value, str) and not target.value.startswith("."):
            yield target.value


def _closure(roots: list[str], packages: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = [*roots]
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] not in packages or _locate(name) is None:
            continue  # the last: `name` is a function or class in a module, not a module
        found.add(name)
        waiting.extend(_module(name).imports)
        # Importing a.b.c runs a and a.b first. One that only imports cannot change what c does; any other can.
        parts = name.split(".")
        parents = [".".join(parts[:count]) for count in range(1, len(parts))]
        waiting.extend(parent for parent in parents if _locate(parent) and not _module(parent).only_imports)
    return found


@cache
def _module(name: str) -> _Module:
    file = _locate(name)
    assert file is not None
    source = _read(file, name, is_package=file.name == "__init__.py")
    pieces: list[str] = []
    importing: list[ast.AST] = []
    _dump(source.body, pieces, importing)
    imports = {target for node in importing for target in _imported(node, source)}
    return _Module(_digest(pieces), frozenset(imports), all(_is_import(item) for item in source.body))


def _is_import(item: ast.stmt) -> bool:
    return isinstance(item, (ast.Import, ast.ImportFrom)) or (
        isinstance(item, ast.Assign) and [_last_name(target) for target in item.targets] == ["__all__"]
    )


@cache
def _locate(name: str) -> Path | None:
    """Source file of a module, found without importing it or its parents; None when there is no such module."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)  # of a top-level name this imports nothing
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


# From trees to digests


def _digest(pieces: list[str]) -> str:
    return hashlib.sha256("".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()


def _dump(node: Any, pieces: list[str], importing: list[ast.AST]) -> None:
    """Like `ast.dump`, but without empty fields, which come and go between Python versions.

    Adds the text to `pieces`, and to `importing` the nodes that may import something.
    """
    if isinstance(node, ast.AST):
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
            importing.append(node)
        pieces.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if (value is None and name != "value") or value == []:
                continue
            if name in ("kind", "ctx", "type_comment"):  # the u of u"", what the place tells, a comment
                continue
            pieces.append(f"{name}=")
            _dump(value, pieces, importing)
        pieces.append(")")
    elif isinstance(node, list):
        for item in node:
            _dump(item, pieces, importing)
            pieces.append(",")
    else:
        pieces.append(repr(node))
