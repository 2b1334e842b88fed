"""The sentences that stand below fields in the source, for the OpenAPI document.

Read from the source once it is asked for: pydantic can do it too, but for each class when it is imported, and a
command line that only wants to submit a run would wait for that.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from types import ModuleType


def field_docs(*modules: ModuleType) -> dict[str, dict[str, str]]:
    """Class -> field -> its docstring, those of base classes included (as far as they stand in these modules)."""
    classes = [
        node
        for module in modules
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef)
    ]
    found: dict[str, dict[str, str]] = {}
    for one in classes:  # bases come first: they are defined before those that inherit, and in the modules before
        inherited = [found.get(base.id, {}) for base in one.bases if isinstance(base, ast.Name)]
        found[one.name] = {field: doc for docs in inherited for field, doc in docs.items()} | _own(one)
    return found


def _own(one: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, below in pairwise(one.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(said, str):
                docs[field.target.id] = inspect.cleandoc(said)
    return docs
