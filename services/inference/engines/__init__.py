"""The engines by name. A new engine is one module that meets `services.inference.engine.Engine` and one line here.

Importing this package loads no engine: torch and vLLM come in only with the engine that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from syncline.errors import EngineError

if TYPE_CHECKING:
    from services.inference.engine import Engine

ENGINES: dict[str, str] = {
    "transformers": "services.inference.engines.transformers:TransformersEngine",
    "vllm": "services.inference.engines.vllm:VllmEngine",
}


def create_engine(name: str, options: Mapping[str, Any] | None = None) -> Engine:
    """Make the engine `name`; `options` are the fields of its options class. Nothing is started before `load`.

    Raises `EngineError` for a name or an option that does not exist.
    """
    if name not in ENGINES:
        raise EngineError(f"no engine is called {name!r}; there are: {', '.join(sorted(ENGINES))}")
    module, _, class_name = ENGINES[name].partition(":")
    engine_class = getattr(import_module(module), class_name)
    try:
        chosen = engine_class.Options(**(options or {}))
    except TypeError as error:
        raise EngineError(f"engine {name!r}: {error}") from error
    return cast("Engine", engine_class(chosen))
