"""fakesnow's translation of a statement is some seventy passes over its tree. Most of them look at nodes that few statements have.

A pass is a function that is called with each node in turn. What kinds of nodes it looks at is written down here (fakesnow's version is pinned):

    no such node in the tree     the pass is left out
    some                         it is called for these alone
    a pass that is not known     is called for every node, as sqlglot would do

The nodes of a tree are looked up once, and again after a pass that may have changed it.
"""

from __future__ import annotations

import threading
from typing import Any

from sqlglot import exp
from sqlglot.expressions.core import Expr, Expression

_AGGREGATES = (
    exp.Sum,
    exp.Avg,
    exp.Variance,
    exp.Stddev,
    exp.StddevSamp,
    exp.StddevPop,
    exp.VariancePop,
    exp.Median,
)
KINDS: dict[str, tuple[type[Expr], ...]] = {
    "identifier": (exp.Table,),
    "upper_case_unquoted_identifiers": (exp.Identifier,),
    "alter_session": (exp.Alter,),
    "update_variables": (exp.Set, exp.Alias),
    "current_version": (exp.CurrentVersion,),
    "set_schema": (exp.Use,),
    "create_database": (exp.Create,),
    "extract_comment_on_table": (exp.Create, exp.Comment, exp.Alter),
    "extract_comment_on_columns": (exp.Alter,),
    "information_schema_fs": (exp.Table,),
    "information_schema_databases": (exp.Table,),
    "drop_schema_cascade": (exp.Drop,),
    "tag": (exp.Alter, exp.Command, exp.Create, exp.Drop),
    "semi_structured_types": (exp.DataType,),
    "try_parse_json": (exp.Anonymous,),
    "split": (exp.Split,),
    "trim_cast_varchar": (exp.Trim,),
    "indices_to_json_extract": (exp.Bracket,),
    "json_extract_cast_as_varchar": (exp.Cast,),
    "json_extract_cased_as_varchar": (exp.Upper, exp.Lower),
    "json_extract_precedence": (exp.JSONExtract, exp.JSONExtractScalar),
    "flatten_value_cast_as_varchar": (exp.Cast,),
    "flatten": (exp.Lateral, exp.TableFromRows),
    "regex_replace": (exp.RegexpReplace,),
    "regex_substr": (exp.RegexpExtract,),
    "result_scan": (exp.Select,),
    "sequence_nextval": (exp.Column,),
    "values_columns": (exp.Values,),
    "to_date": (exp.Anonymous,),
    "timestamp_offsets": (exp.Cast,),
    "to_decimal": (exp.ToNumber,),
    "to_timestamp": (exp.UnixToTime, exp.Anonymous, exp.Cast),
    "to_variant": (exp.ToVariant,),
    "object_construct": (exp.StarMap, exp.Struct, exp.JSONObject),
    "timestamp_ntz": (exp.DataType,),
    "float_to_double": (exp.DataType,),
    "extract_text_length": (exp.Create, exp.Alter),
    "sample": (exp.TableSample,),
    "array_size": (exp.ArraySize,),
    "random": (exp.Select,),
    "array_agg_within_group": (exp.WithinGroup,),
    "array_agg": (exp.ArrayAgg, exp.Window),
    "object_agg": (exp.ObjectAgg,),
    "array_construct_etc": (exp.ArrayConstructCompact, exp.Array, exp.ArrayConcat),
    "dateadd_date_cast": (exp.DateAdd,),
    "dateadd_string_literal_timestamp_cast": (exp.DateAdd,),
    "datediff_string_literal_timestamp_cast": (exp.DateDiff,),
    "show_databases": (exp.Show,),
    "show_functions": (exp.Show, exp.Command),
    "show_procedures": (exp.Show,),
    "show_parameters": (exp.Command,),
    "show_warehouses": (exp.Show,),
    "show_schemas": (exp.Show,),
    "show_tables_etc": (exp.Show,),
    "show_columns": (exp.Show,),
    "show_stages": (exp.Show,),
    "show_sequences": (exp.Show,),
    "show_keys": (exp.Show,),
    "show_users": (exp.Show,),
    "create_user": (exp.Command,),
    "haversine": (exp.Anonymous,),
    "hex_string": (exp.HexString,),
    "sha256": (exp.SHA2, exp.SHA2Digest, exp.Anonymous),
    "create_clone": (exp.Create,),
    "alias_in_join": (exp.Select,),
    "alias_in_where": (exp.Select,),
    "alter_table_strip_cluster_by": (exp.Alter,),
    "numeric_agg_implicit_cast": _AGGREGATES,
    "create_stage": (exp.Create,),
    "create_file_format": (exp.Create,),
    "list_stage": (exp.ListStage,),
    "put_stage": (exp.Put,),
    "create_table_as": (exp.Create,),
    "_nothing": (),  # what `gaps` has put in the place of another
}
# These may give a node back that has others below it than before, of kinds that a later pass looks at. They have something to do only in a tree that
# has one of these kinds too.
CHANGES_BELOW: dict[str, tuple[type[Expr], ...]] = {
    "extract_comment_on_columns": (exp.Alter,),
    "json_extract_cast_as_varchar": (exp.JSONExtract,),
    "json_extract_cased_as_varchar": (exp.JSONExtract,),
    "random": (exp.Rand,),
    "alias_in_join": (exp.Join,),
    "alias_in_where": (exp.Where,),
    "numeric_agg_implicit_cast": _AGGREGATES,
    "create_table_as": (exp.Select, exp.Subquery),
}


class _Known(threading.local):
    """The nodes of the tree that a thread translates, by kind, each with its place among all; `root` is None when they are not known."""

    root: Expr | None = None
    nodes: dict[type, list[tuple[int, Any]]] = {}  # noqa: RUF012 - replaced as a whole


_known = _Known()


def translating(plain: Any) -> Any:
    """fakesnow's chain of passes; what is known of one statement counts for no other."""

    def translate(*args: Any) -> Any:
        _known.root = None
        try:
            return plain(*args)
        finally:
            _known.root = None

    return translate


def transform(self: Expr, fun: Any, *args: Any, copy: bool = True, **kwargs: Any) -> Any:
    """As sqlglot's: each node in turn through `fun`, the children of those that it leaves as they are after them."""
    name = _name(fun)
    wanted = None if copy else KINDS.get(name)
    if wanted is None:
        _known.root = None
        return _each(self.copy() if copy else self, fun, args, kwargs)
    if _known.root is not self:
        _known.root, _known.nodes = self, _by_kind(self)
    there = _of(wanted)
    if not there or (name in CHANGES_BELOW and not _of(CHANGES_BELOW[name])):
        return self
    if name in CHANGES_BELOW:
        _known.root = None
        return _each(self, fun, args, kwargs)
    found = [place for kind in there for place in _known.nodes[kind]]
    return _some(self, found if len(there) == 1 else sorted(found, key=_place), fun, args, kwargs)


def upper_case_unquoted_identifiers(expression: Expr) -> Expr:
    """fakesnow's copies each identifier; the tree is our own."""
    if type(expression) is exp.Identifier and not expression.quoted and isinstance(expression.this, str):
        expression.set("this", expression.this.upper())
    return expression


def close_gap(cursor: Any) -> None:
    """Have sqlglot and fakesnow do it so."""
    Expression.transform = transform  # type: ignore[method-assign]
    cursor._transform = translating(cursor._transform)


def _name(fun: Any) -> str:
    """Of the pass; a lambda names the one that it calls."""
    name: str = getattr(fun, "__name__", "")
    if name != "<lambda>":
        return name
    return next((called for called in fun.__code__.co_names if called in KINDS), "")


def _of(wanted: tuple[type[Expr], ...]) -> list[type]:
    """The kinds that the tree has of these."""
    return [kind for kind in _known.nodes if issubclass(kind, wanted)]


def _place(item: tuple[int, Any]) -> int:
    return item[0]


def _by_kind(root: Expr) -> dict[type, list[tuple[int, Any]]]:
    """All nodes in the order of a walk."""
    found: dict[type, list[tuple[int, Any]]] = {}
    stack: list[Any] = [root]
    number = 0
    while stack:
        node = stack.pop()
        number += 1
        found.setdefault(type(node), []).append((number, node))
        _add_children(stack, node)
    return found


def _some(self: Expr, found: list[tuple[int, Any]], fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One pass over these nodes, in their order; what stands below a node that was replaced is left alone."""
    root: Any = self
    replaced: set[int] = set()
    for _, node in found:
        if replaced and _stands_below(node, replaced):
            continue
        parent, key, index = node.parent, node.arg_key, node.index
        new = fun(node, *args, **kwargs)
        if new is node:
            continue
        replaced |= {id(node), id(new)}
        _known.root = None
        if node is self:
            root = new
        elif parent and key:
            parent.set(key, new, index)
    return root


def _stands_below(node: Any, replaced: set[int]) -> bool:
    while node is not None:
        if id(node) in replaced:
            return True
        node = node.parent
    return False


def _each(self: Expr, fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One pass over all nodes."""
    stack: list[Any] = [self]
    root: Any = None
    while stack:
        node = stack.pop()
        parent, key, index = node.parent, node.arg_key, node.index
        new = fun(node, *args, **kwargs)
        if root is None:
            root = new
        elif new is not node and parent and key:
            parent.set(key, new, index)
        if new is node:
            _add_children(stack, node)
    return root


def _add_children(stack: list[Any], node: Any) -> None:
    for value in reversed(node.args.values()):
        if type(value) is list:
            stack += [item for item in reversed(value) if isinstance(item, Expr)]
        elif isinstance(value, Expr):
            stack.append(value)
