"""The ways in which an equation is made wrong: edits of source text, found by its syntax tree.

An edit is named by its function, the text of its line, what becomes of it, and a number where all
of these are the same. The name still finds it after other lines of the file have changed.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass

ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"}
ARITHMETIC |= {ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&"}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//"}
SIGNS |= {ast.Mod: "%", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|"}
COMPARISONS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">=")}
COMPARISONS |= {ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}
COMPARISONS |= {ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is")}
COMPARISONS |= {ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")}
TWINS = [("min", "max"), ("mean", "sum"), ("minimum", "maximum"), ("amin", "amax")]
TWINS += [("argmin", "argmax"), ("any", "all"), ("floor", "ceil"), ("cumsum", "cumprod")]
TWINS += [("zeros", "ones"), ("zeros_like", "ones_like"), ("no_grad", "enable_grad")]
TWINS += [("exp", "expm1"), ("log", "log1p"), ("softmax", "log_softmax")]
OTHER_NAME = {a: b for pair in TWINS for a, b in (pair, pair[::-1])}
# Calls of a chain that change numbers or gradients, and not the shape.
DROPPED = {"detach", "clamp", "abs", "square", "sqrt", "exp", "log", "neg", "sigmoid", "tanh"}
DROPPED |= {"softmax", "log_softmax", "flip", "cumprod", "cumsum", "round", "clip", "copy"}
DROPPED |= {"clone", "transpose"}
# Arguments and calls that make no equation.
UNTOUCHED_KEYWORDS = {"strict", "non_blocking", "exist_ok", "parents", "frozen", "encoding"}
UNTOUCHED_KEYWORDS |= {"daemon", "weights_only", "missing_ok", "ensure_ascii", "indent", "flush"}
LOGGING = {"log", "logger", "logging", "warnings", "console"}
SYMMETRIC = {"isinstance", "issubclass", "minimum", "maximum", "min", "max", "getattr", "hasattr"}
SYMMETRIC |= {"logaddexp", "allclose", "isclose", "dot", "cast", "setattr"}
PATHS = re.compile(r"(path|folder|dir|place|home|root|file)s?$|Path\(", re.I)


@dataclass(frozen=True)
class Mutant:
    """One edit of a file: bytes `start` to `end` are replaced."""

    path: str
    function: str  # its qualified name, or "" at the module's level
    line: str  # the text of its first line, stripped
    change: str  # what becomes of it
    number: int  # of those with the same function, line and change
    start: int
    end: int
    text: str
    lineno: int
    operator: str
    lines: tuple[int, int]  # of its statement, without the statements inside

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.path, self.function, self.line, self.change, self.number

    def is_valid(self, source: bytes) -> bool:
        try:
            ast.parse(self.apply(source))
        except SyntaxError:
            return False
        return True

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def find_mutants(path: str, source: bytes) -> list[Mutant]:
    """Every mutant of a file, in the order of its text; a few are no valid Python."""
    finder = Finder(source)
    finder.visit(ast.parse(source))
    lines, found, seen = source.decode().splitlines(), [], Counter[tuple[str, str, str]]()
    for start, end, text, operator, function in sorted(finder.edits):
        before = source[start:end].decode()
        lineno = source[:start].count(b"\n") + 1
        line, change = lines[lineno - 1].strip(), f"{shorten(before)} -> {shorten(text)}"
        number = seen[function, line, change]
        seen[function, line, change] += 1
        where = (path, function, line, change, number)
        span = finder.spans.get(lineno, (lineno, lineno))
        found.append(Mutant(*where, start, end, text, lineno, operator, span))
    return found


def shorten(text: str) -> str:
    return " ".join(text.split()) or "nothing"


def name_of_call(call: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_logging(node: ast.AST) -> bool:
    """Whether a call writes to a log or a terminal."""
    if not isinstance(node, ast.Call):
        return False
    root: ast.AST = node.func
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in LOGGING


def find_spans(tree: ast.Module) -> dict[int, tuple[int, int]]:
    """For each line the first and last of its statement, without the statements inside; of the
    whole file, where it runs as the file is imported.
    """
    spans: dict[int, tuple[int, int]] = {}
    whole = (1, max(getattr(node, "end_lineno", 1) for node in tree.body)) if tree.body else (1, 1)

    def add(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.stmt):
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(d.lineno for d in decorators)])
            body = getattr(node, "body", [])
            last = max(first, body[0].lineno - 1) if body else node.end_lineno or first
            header = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            span = (first, last) if inside or header else whole
            spans.update(dict.fromkeys(range(first, last + 1), span))
            inside = inside or header
        for inner in ast.iter_child_nodes(node):
            add(inner, inside)

    add(tree, False)
    return spans


def kind_of(argument: ast.expr) -> str:
    """What an argument looks like; in the place of another kind it would fail at once."""
    literals = (ast.Constant, ast.Lambda, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict)
    literals += (ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.Starred)
    if isinstance(argument, ast.UnaryOp) and isinstance(argument.operand, ast.Constant):
        return "Constant"
    return type(argument).__name__ if isinstance(argument, literals) else "expression"


class Finder(ast.NodeVisitor):
    """Collects edits: (start, end, text, operator, function)."""

    def __init__(self, source: bytes):
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.edits: set[tuple[int, int, str, str, str]] = set()
        self.scope: list[str] = []
        self.without_graph = 0  # `no_grad` blocks around, where `detach` changes nothing
        self.spans = find_spans(ast.parse(source))

    # ---- positions

    def start(self, node) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def add(self, start: int, end: int, text: str, operator: str) -> None:
        self.edits.add((start, end, text, operator, ".".join(self.scope)))

    def replace(self, node, text: str, operator: str) -> None:
        self.add(self.start(node), self.end(node), text, operator)

    def replace_between(self, left, right, old: str, new: str, operator: str) -> None:
        """Replace an operator that stands between two nodes; parentheses and breaks may too."""
        start, between = self.end(left), self.source[self.end(left) : self.start(right)].decode()
        words = r"\s+".join(map(re.escape, old.split()))
        if match := re.search(rf"(?<![\w<>=!*/]){words}(?![\w=*/])", strip_comments(between)):
            self.add(start + match.start(), start + match.end(), new, operator)

    # ---- what is left alone

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        if "NotImplementedError" not in self.text(node):
            self.remove_statement(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in UNTOUCHED_KEYWORDS:
            self.generic_visit(node)

    # ---- scopes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        frozen = [d for d in node.decorator_list if "no_grad" in self.text(d)]
        for decorator in frozen:
            self.replace(decorator, self.text(decorator).replace("no_", "enable_"), "gradient")
        self.scope.append(node.name)
        self.without_graph += len(frozen)
        self.visit(node.args)
        self.visit_body(node.body)
        self.without_graph -= len(frozen)
        self.scope.pop()

    def visit_With(self, node: ast.With) -> None:
        frozen = sum("no_grad" in self.text(item.context_expr) for item in node.items)
        for item in node.items:
            self.visit(item)
        self.without_graph += frozen
        self.visit_body(node.body)
        self.without_graph -= frozen

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        self.visit_body(node.body)
        self.scope.pop()

    def visit_body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    # ---- statements

    def remove_statement(self, node: ast.stmt) -> None:
        if "__init__" not in self.scope:  # what lacks an attribute fails at once, wherever used
            self.replace(node, "pass", "removed statement")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not is_logging(node.value):
            self.remove_statement(node)
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self.remove_statement(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.remove_statement(node)
        if old := SIGNS.get(type(node.op)):
            new = ARITHMETIC[type(node.op)]
            self.replace_between(node.target, node.value, old + "=", new + "=", "arithmetic")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, "break", "loop")

    def visit_Break(self, node: ast.Break) -> None:
        self.replace(node, "continue", "loop")

    def negate(self, test: ast.expr) -> None:
        if "TYPE_CHECKING" not in self.text(test):
            self.replace(test, f"not ({self.text(test)})", "negated condition")

    def visit_If(self, node: ast.If) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If  # type: ignore[assignment]

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    # ---- expressions

    def visit_BinOp(self, node: ast.BinOp) -> None:
        kind, left, right = type(node.op), self.text(node.left), self.text(node.right)
        literals = (ast.Dict, ast.Set, ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
        literals += (ast.DictComp,)
        texts = [x for x in ast.walk(node) if isinstance(getattr(x, "value", 0), str)]
        plain = not any(isinstance(x, literals) for x in (node.left, node.right)) and not texts
        if kind is ast.Div and PATHS.search(left):
            plain = False
        if kind in SIGNS and plain:
            self.replace_between(
                node.left, node.right, SIGNS[kind], ARITHMETIC[kind], "arithmetic"
            )
        if kind in (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr) and plain:
            self.replace(node, f"({left})" if "\n" in left else left, "dropped term")
            if kind in (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr):
                self.replace(node, f"({right})" if "\n" in right else right, "dropped term")
        if kind is ast.MatMult:
            self.replace(node, f"{right} @ {left}", "swapped arguments")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        number = isinstance(node.operand, ast.Constant)
        if number and isinstance(node.op, ast.USub):
            value = node.operand.value  # type: ignore[attr-defined]
            for other in ("0", "-2") if value == 1 else (str(value),):
                self.replace(node, other, "constant")
            return
        if not isinstance(node.op, ast.UAdd):
            operand = self.text(node.operand)
            self.replace(node, f"({operand})" if " " in operand else operand, "sign")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.replace_between(left, right, old, new, "and/or")
        for dropped in node.values:
            rest = f" {old} ".join(f"({self.text(x)})" for x in node.values if x is not dropped)
            self.replace(node, rest, "dropped condition")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip(
            [node.left, *node.comparators], node.ops, node.comparators, strict=False
        ):
            old, new = COMPARISONS[type(op)]
            self.replace_between(left, right, old, new, "comparison")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value), "constant")
        elif isinstance(value, int):
            for other in {0: "1", 1: "0 2", 2: "1 3"}.get(value, f"{value * 2}").split():
                self.replace(node, other, "constant")
        elif isinstance(value, float):
            self.replace(node, repr(value * 2 if value else 1.0), "constant")

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None:
                self.replace(bound, "", "slice")
                if not isinstance(bound, (ast.Constant, ast.UnaryOp)):
                    self.replace(bound, f"{self.text(bound)} + 1", "slice")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if is_logging(node):
            return
        name, func = name_of_call(node), node.func
        if name in OTHER_NAME:
            end = self.end(func)
            self.add(end - len(name), end, OTHER_NAME[name], "other function")
        idle = name == "detach" and self.without_graph
        if isinstance(func, ast.Attribute) and name in DROPPED and not idle:
            module = isinstance(func.value, ast.Name) and func.value.id in ("torch", "np", "math")
            if not module:
                self.replace(node, self.text(func.value), "dropped call")
            elif len(node.args) == 1:
                self.replace(node, self.text(node.args[0]), "dropped call")
        if name not in SYMMETRIC and not any(isinstance(a, ast.Starred) for a in node.args):
            for one, two in zip(node.args, node.args[1:], strict=False):
                pair = self.text(one), self.text(two)
                if kind_of(one) == kind_of(two) and pair[0] != pair[1]:
                    between = self.source[self.end(one) : self.start(two)].decode()
                    self.add(
                        self.start(one), self.end(two), pair[1] + between + pair[0], "swapped"
                    )
        self.visit(func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)


def strip_comments(text: str) -> str:
    """Blank out comments, so that an operator in one is not taken for code."""
    return re.sub(r"#[^\n]*", lambda found: " " * len(found[0]), text)
