"""Every verifier by its name in a run spec. A new one is one small file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from services.reward.verifiers.answers import answer_in, gold_boxed, gold_in
from services.reward.verifiers.exact_match import exact_match
from services.reward.verifiers.math import SELF_TEST, WARM_UP, equal
from services.reward.verifiers.pattern import pattern
from services.reward.verifiers.verifier import Verifier

VERIFIERS: Mapping[str, Verifier] = {
    "math": Verifier(
        equal,
        cut=answer_in,
        cut_gold=gold_in,
        best_completion=gold_boxed,
        warm_up=WARM_UP,
        self_test=SELF_TEST,
    ),
    "exact_match": Verifier(exact_match),
    "pattern": Verifier(pattern, needs_answer=False),
}
