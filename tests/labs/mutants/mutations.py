"""The mutations of one module: each changes one place of its source, so that the code does something else.

Changed are comparisons, `and` and `or`, `not`, numbers, truth values, `+` and `-`; and statements that only do
something are left out. Text for people is not changed, and neither is what only the type checker reads.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SUMS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
#: calls that only tell people something
TELLING = ("log.", "super().__init__")


class Mutation(NamedTuple):
    """One change: its line, the text there before and after, and the whole source with it."""

    line: int
    before: str
    after: str
    source: str


def mutations(source: str) -> Iterator[Mutation]:
    """Yield every mutation of a module's source, in the order of its lines."""
    tree = ast.parse(source)
    _forget_annotations(tree)
    for node in sorted(_code(tree), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))):
        for new in _changed(node):
            before = ast.get_source_segment(source, node)
            if before is not None and isinstance(node, ast.expr | ast.stmt):
                yield Mutation(node.lineno, before, new, _with(source, node, new))


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node of a tree that is run, but for those that only tell people something."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith(TELLING):
            continue
        if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            continue
        yield node
        yield from _code(node)


def _forget_annotations(tree: ast.AST) -> None:
    """Take away what only the type checker reads, and what a class is decorated with: `frozen` is a promise to it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns, node.decorator_list = None, []
        elif isinstance(node, ast.ClassDef):
            node.decorator_list = []
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("object", ast.Load())


def _changed(node: ast.AST) -> Iterator[str]:
    """Yield the texts that stand in the place of a node, each a mutation."""
    match node:
        case ast.Compare(left, [operator], comparators) if type(operator) in COMPARISONS:
            yield f"({ast.unparse(ast.Compare(left, [COMPARISONS[type(operator)]()], comparators))})"
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield f"({ast.unparse(ast.BoolOp(other, values))})"
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.BinOp(left, operator, right) if type(operator) in SUMS:
            yield f"({ast.unparse(ast.BinOp(left, SUMS[type(operator)](), right))})"
        case ast.AugAssign(target, operator, value) if type(operator) in SUMS:
            yield ast.unparse(ast.AugAssign(target, SUMS[type(operator)](), value))
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value)):
            yield str(value + 1)
        case _:
            yield from _left_out(node)


def _left_out(node: ast.AST) -> Iterator[str]:
    """Yield `pass` for a statement that only does something: a call, a change of an attribute, a deletion."""
    match node:
        case ast.Expr(ast.Call()) | ast.Expr(ast.Await(ast.Call())) | ast.Delete():
            yield "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript()], _):
            yield "pass"
        case _:
            pass


def _with(source: str, node: ast.expr | ast.stmt, new: str) -> str:
    """Return the source with another text in the place of a node. Columns are in bytes of UTF-8."""
    lines = source.encode().splitlines(keepends=True)
    assert node.end_lineno is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    return b"".join((*lines[:first], head, new.encode(), tail, *lines[last + 1 :])).decode()
