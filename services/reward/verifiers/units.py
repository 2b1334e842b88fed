"""What may stand behind a number without changing it: units of measurement, currencies, nouns that are counted."""

from __future__ import annotations

import re

_MAY_BE_SQUARED = """
m mm cm dm km meter meters metre metres millimeter millimeters centimeter centimeters kilometer kilometers
millimetre millimetres centimetre centimetres kilometre kilometres in inch inches ft foot feet yd yds yard yards
mi mile miles unit units s sec secs second seconds hr hrs hour hours
"""
_OTHERS = """
g mg kg t lb lbs oz ton tons tonne tonnes h min mins ms day days wk wks yr yrs L ml mL cl dl pt pts qt qts gal gals
cup cups mph kph V A W kW kWh J cal kcal N Pa kPa Hz kHz MHz GHz K C F mol rad deg KB MB GB TB USD EUR GBP
sq cu per a an the of in to at by for old ago men boys cats dogs cows pigs hens eggs pens bags cars cans jars
toys kids ways
"""
"""Units and other words that are too short to be told by their length from products of variables."""
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
    "trillion": 1_000_000_000_000,
}
_NUMBERS = """
half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths zero one two three four five six
seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty
fifty sixty seventy eighty ninety
"""
_CHANGES = """
pi squared cubed factorial root power times over under below above plus minus negative divided multiplied percent
percents percentage or not except without
"""

LENGTHS = frozenset(_MAY_BE_SQUARED.split())
UNITS = LENGTHS | frozenset(_OTHERS.split())
CHANGES = frozenset(_CHANGES.split()) | frozenset(_SCALES)
"""Words behind a number after which it is another one."""
NUMBERS = frozenset(_NUMBERS.split())
"""Numbers in words do that too, but for a remark: 12 (twelve)."""

SHORTEST_NOUN = 4
"""Letters of a word that is counted: shorter ones, as in 5 xyz, may be products of variables."""
SHORTEST_NOUN_OF_PROSE = 2
"""Outside a box, where nobody writes a product behind a space."""

_TOKEN = re.compile(
    r"(?P<word>[^\W\d_\xb2\xb3]+(?:-[^\W\d_]+)*)|(?P<power>\^\{?\d\}?|[\xb2\xb3])|(?P<sign>[/*\xb7.,'\u2019-])|\s+"
)


def is_unit(rest: str, *, shortest: int = SHORTEST_NOUN) -> bool:
    """Whether what stands behind a number only says what is measured or counted.

    >>> is_unit("miles/hour"), is_unit("cm^2"), is_unit("feet per second squared"), is_unit("squared"), is_unit("xyz")
    (True, True, True, False, False)
    """
    before = ""
    for kind, token in _tokens(rest) or [("other", rest)]:
        word = token.casefold()
        match kind:
            case "word" if word in ("squared", "cubed"):
                if before not in LENGTHS:
                    return False
            case "word":
                if changes(word) or not (token in UNITS or word in LENGTHS or len(word) >= shortest):
                    return False
                before = word
            case "power" if before not in LENGTHS:
                return False
            case "other":
                return False
    return True


def words_of(text: str) -> set[str]:
    """In small letters; none where there is anything but words."""
    return {token.casefold() for kind, token in _tokens(text) or [] if kind == "word"}


def changes(word: str, *, numbers: bool = True) -> bool:
    """Whether a number is another one after this word: 5 million, 5 squared, and with `numbers` 5 and one-half."""
    last = word.rpartition("-")[2]  # a two-liter bottle is a bottle
    return last in CHANGES or (numbers and last in NUMBERS)


def scaled(rest: str) -> tuple[int, str]:
    """The factor of the scale words in front of the rest, and what follows them.

    >>> scaled(" million dollars"), scaled(" clips")
    ((1000000, ' dollars'), (1, ' clips'))
    """
    scale = 1
    while (found := re.match(r" ([^\W\d_]+?)s?(?![^\W\d_])", rest)) and found[1].casefold() in _SCALES:
        scale *= _SCALES[found[1].casefold()]
        rest = rest[found.end() :]
    return scale, rest


def _tokens(text: str) -> list[tuple[str, str]] | None:
    """Words, powers and signs, in order; None where there is anything else."""
    tokens: list[tuple[str, str]] = []
    end = 0
    while end < len(text):
        found = _TOKEN.match(text, end)
        if found is None:
            return None
        if found.lastgroup:
            tokens.append((found.lastgroup, found[0]))
        end = found.end()
    return tokens
