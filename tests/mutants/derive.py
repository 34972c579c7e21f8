# SPDX-License-Identifier: GPL-2.0-or-later
"""Derives wrong programs from right ones: every operator, constant and statement of a module.

Each mutant differs from its module in one place. A mutant is known by its words (function, what
stood there, what stands there now), so that a survivor stays known while other lines move.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MODULES = (
    "pvlock.engines.emulator.scheduler",
    "pvlock.engines.emulator.vm",
    "pvlock.region",
    "pvlock.hypercall",
    "pvlock.attribute",
)
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.Pow: ast.Mult,
}  # fmt: skip
_NAMES = {"max": "min", "min": "max", "any": "all", "all": "any", "append": "appendleft",
          "appendleft": "append", "popleft": "pop"}  # fmt: skip
_MEMBERS = {
    "Place": ("OFF", "QUEUED", "RUNNING", "BLOCKED"),
    "HostEvent": ("IN", "SLICE", "YIELD", "WFI", "OFF", "SCRIPT"),
    "Policy": ("SCHEDULED_OUT", "PREEMPTED"),
}
_TYPES = ("annotation", "returns", "decorator_list", "bases", "type_params")
_CONDITIONS = (ast.If, ast.While, ast.IfExp)


@dataclass(frozen=True)
class Derived:
    """One mutant: in `function` of `module`, `before` has become `after`.

    `which` counts mutants of the same words. `place` and `variant` say how it is made.
    """

    module: str
    function: str
    before: str
    after: str
    which: int
    line: int
    place: int
    variant: int

    @property
    def key(self) -> str:
        """The mutant's words, which no other mutant has."""
        name = self.module.rpartition(".")[2]
        more = f" #{self.which}" if self.which else ""
        return f"{name}.{self.function}: {self.before} → {self.after}{more}"


@cache
def source(module: str) -> str:
    """Return the text of a module, without importing it."""
    *packages, name = module.split(".")
    path = Path(*packages, f"{name}.py")
    return next(p / path for p in map(Path, sys.path) if (p / path).exists()).read_text("utf-8")


@cache
def mutants(module: str) -> tuple[Derived, ...]:
    """Return all mutants of a module, in the order of its lines."""
    tree = ast.parse(source(module))
    owners = _Owners(tree)
    words: Counter[tuple[str, str, str]] = Counter()
    found = []
    for place, node in enumerate(ast.walk(tree)):
        if not owners.may_change(node):
            continue
        for variant, change in enumerate(_changes(node)):
            before, after = owners.text(node), "nothing"
            if change.field:
                old = getattr(node, change.field)
                setattr(node, change.field, change.value)
                after = owners.text(node)
                setattr(node, change.field, old)
            function = owners.function(node)
            which = words[function, before, after]
            words[function, before, after] += 1
            line = owners.line(node)
            found.append(Derived(module, function, before, after, which, line, place, variant))
    return tuple(sorted(found, key=lambda mutant: (mutant.line, mutant.place, mutant.variant)))


def changed(module: str, place: int, variant: int) -> ast.Module:
    """Return the program of the mutant of `module` that has this place and variant."""
    tree = ast.parse(source(module))
    node = list(ast.walk(tree))[place]
    list(_changes(node))[variant].apply(tree, node)
    return ast.fix_missing_locations(tree)


@dataclass(frozen=True)
class _Change:
    """Set `field` of a node to `value`; with `field` empty, remove the node, a statement."""

    field: str
    value: object

    def apply(self, tree: ast.Module, node: ast.AST) -> None:
        if self.field:
            setattr(node, self.field, self.value)
            return
        for parent in ast.walk(tree):
            for _, value in ast.iter_fields(parent):
                if isinstance(value, list) and any(each is node for each in value):
                    at = next(i for i, each in enumerate(value) if each is node)
                    value[at] = ast.copy_location(ast.Pass(), value[at])
                    return


def _changes(node: ast.AST) -> Iterator[_Change]:
    match node:
        case ast.Compare(ops=[op]):
            yield _Change("ops", [_COMPARISONS[type(op)]()])
            if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                turned = ast.Lt if isinstance(op, ast.Gt | ast.GtE) else ast.Gt
                yield _Change("ops", [turned()])
        case ast.Compare(ops=[first, *rest]):
            yield _Change("ops", [_COMPARISONS[type(first)](), *rest])
            last = _COMPARISONS[type(rest[-1])]()
            yield _Change("ops", [first, *rest[:-1], last])
        case ast.BoolOp(op=op):
            yield _Change("op", ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.BinOp(op=op) if type(op) in _OPERATIONS:
            yield _Change("op", _OPERATIONS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield _Change("value", not value)
        case ast.Constant(value=int(value)):
            yield _Change("value", value + 1)
        case ast.Name(id=name) if name in _NAMES:
            yield _Change("id", _NAMES[name])
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in _MEMBERS:
            members = _MEMBERS[owner]
            yield _Change("attr", members[(members.index(name) + 1) % len(members)])
        case ast.Attribute(attr=name) if name in _NAMES:
            yield _Change("attr", _NAMES[name])
        case ast.comprehension(ifs=[_]):
            yield _Change("ifs", [])
    match node:
        case ast.If() | ast.While() | ast.IfExp() if not _is_negated_by_its_operator(node.test):
            yield _Change("test", ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test))
        case ast.AugAssign(op=op):
            yield _Change("op", _OPERATIONS[type(op)]())
            yield _Change("", None)
        case ast.Return(value=ast.expr() as returned) if not _is_none(returned):
            yield _Change("value", ast.copy_location(ast.Constant(None), returned))
        case ast.Expr() | ast.Continue() | ast.Break() | ast.Delete() | ast.Raise():
            yield _Change("", None)
        case ast.Return(value=None):
            yield _Change("", None)
        case ast.Assign(targets=[target]) if not isinstance(target, ast.Name):
            yield _Change("", None)


def _is_negated_by_its_operator(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and len(test.ops) == 1


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


class _Owners:
    """Which function and which statement each node of a module is in."""

    def __init__(self, tree: ast.Module) -> None:
        self._function: dict[int, str] = {}
        self._statement: dict[int, ast.stmt | ast.match_case] = {}
        self._fixed: set[int] = set()
        self._enter(tree, "", None)

    def function(self, node: ast.AST) -> str:
        return self._function[id(node)] or "module"

    def may_change(self, node: ast.AST) -> bool:
        return id(node) not in self._fixed

    def line(self, node: ast.AST) -> int:
        statement = self._statement[id(node)]
        return (statement if isinstance(statement, ast.stmt) else statement.pattern).lineno

    def text(self, node: ast.AST) -> str:
        """The statement that holds the node: the first line of it, if it has a body."""
        return ast.unparse(self._statement[id(node)]).strip().split("\n")[0]

    def _enter(
        self, node: ast.AST, function: str, statement: ast.stmt | ast.match_case | None
    ) -> None:
        if isinstance(node, ast.stmt | ast.match_case):
            statement = node
        self._function[id(node)] = function
        if statement is not None:
            self._statement[id(node)] = statement
        if statement is None or self._never_changes(node):
            self._fixed.add(id(node))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self._enter(child, function, statement)
                    if self._never_changes(node) or name in _TYPES:
                        self._fix(child)

    def _never_changes(self, node: ast.AST) -> bool:
        """Docstrings, imports, assertions, declarations, and messages change no behaviour."""
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        fixed = (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)
        return is_text or isinstance(node, fixed)

    def _fix(self, node: ast.AST) -> None:
        self._fixed |= {id(each) for each in ast.walk(node)}
