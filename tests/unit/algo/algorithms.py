"""Algorithms as a run spec builds them: each with the defaults of its options."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

from pydantic import TypeAdapter

from syncline.algorithmspec import AlgorithmOptions, AlgorithmSpec, build_algorithm

_SPEC: TypeAdapter[AlgorithmOptions] = TypeAdapter(AlgorithmSpec)
NAMES = sorted(get_args(options.model_fields["name"].annotation)[0] for options in get_args(get_args(AlgorithmSpec)[0]))


def algorithm(name: str, **options: Any) -> Any:
    return build_algorithm(_SPEC.validate_python({"name": name, **options}))


dpo = partial(algorithm, "dpo")
group_dpo = partial(algorithm, "group_dpo")
grpo = partial(algorithm, "grpo")
group_dpo_grpo = partial(algorithm, "group_dpo_grpo")
