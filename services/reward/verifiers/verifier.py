"""What a verifier is: a small pure function, and what the service must know of it.

    def exact_match(completion: str, answer: str, *, ignore_case: bool = False) -> float: ...

It gets the completion and the row's gold answer, and the options of the run spec as keyword-only
arguments. It runs in a worker process that is killed when it takes too long, so it may loop, blow
up or crash, and it must keep nothing between two calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model

from syncline.errors import FieldProblem, InvalidSpec


class Unparsable(Exception):
    """The completion holds nothing that could be judged. Counts as wrong, under its own cause."""


class UnreadableGold(Exception):
    """The gold answer cannot be read: an error of the data, which must not train as a wrong answer."""


class Cut(Protocol):
    """The part of a completion that a verifier looks at; None when that part is too long.

    It runs beside the event loop: string work, linear in the text. Equal parts are checked once.
    """

    def __call__(self, completion: str, /, *, longest: int) -> str | None: ...


@dataclass(frozen=True)
class Verifier:
    """A verifier with what it promises."""

    check: Callable[..., float]
    """(completion, answer, *, options) -> score. May raise Unparsable or UnreadableGold."""
    scale: Literal["binary", "graded"] = "binary"
    """binary: the score is 0 or 1, and nothing else is taken from it."""
    needs_answer: bool = True
    """Whether a row without a gold answer is an error of the data."""
    cut: Cut | None = None
    """None: it sees the whole completion."""
    cut_gold: Callable[[str], str] = str
    """Brings the gold answer into the form that `check` wants."""
    best_completion: Callable[[str], str] = str
    """The completion that a gold answer is checked against, beside itself, where a user checks gold answers alone."""
    warm_up: Sequence[tuple[str, str]] = ()
    """(answer, completion) pairs that are checked once before any worker is forked. What these checks load or build,
    all workers share: a library that is slow at first costs no sample its time limit."""
    self_test: Sequence[tuple[str, str, float]] = ()
    """(gold answer, answer, score) as `check` gets and gives them. The service gives no verdict before a worker has
    given these: a library that cannot tell right from wrong must not reward anything."""

    def read_options(self, options: Mapping[str, JsonValue]) -> dict[str, Any]:
        """The options as `check` wants them. Raises InvalidSpec with every one that it does not take."""
        try:
            model = self._options.model_validate(options)
        except ValidationError as error:
            raise InvalidSpec(
                [
                    FieldProblem(".".join(map(str, ("reward.options", *one["loc"]))), one["msg"], self.signature)
                    for one in error.errors(include_url=False, include_input=False)
                ]
            ) from None
        return {name: getattr(model, name) for name in type(model).model_fields}

    @property
    def signature(self) -> str:
        """The options in words: `ignore_case: bool = False`."""
        hints = get_type_hints(self.check)
        return ", ".join(str(one.replace(annotation=hints.get(one.name, Any))) for one in self._parameters) or "none"

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        parameters = inspect.signature(self.check).parameters.values()
        return [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    @cached_property
    def _options(self) -> type[BaseModel]:
        hints = get_type_hints(self.check, include_extras=True)
        fields: dict[str, Any] = {
            one.name: (hints.get(one.name, Any), ... if one.default is one.empty else one.default)
            for one in self._parameters
        }
        return create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
