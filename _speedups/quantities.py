"""Kubernetes ``resource.Quantity``: the exact value and the printed form of texts like ``1500m`` or ``4Gi``.

Values are integers of 10^-9 (nanos). Anything finer is rounded away from zero, and a quantity with a
binary suffix is cut to 2^63-1, as ``k8s.io/apimachinery`` does. A printed form keeps the family
(decimal, binary, exponent) of the text it came from, so pass texts on as they are and print last.
"""

from __future__ import annotations

MALFORMED = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
BAD_SUFFIX = "unable to parse quantity's suffix"
BAD_NUMBER = "unable to parse numeric part of quantity"

MAX_LENGTH = 256
"""Characters of a quantity; a longer text is no quantity that a cluster could mean."""

MAX_EXPONENT = 999
"""Largest decimal exponent, either way."""

DECIMAL, BINARY, EXPONENT = 0, 1, 2

_DECIMAL_SUFFIX = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_BINARY_SUFFIX = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")

_TEN = 10
_UNIT = 10**9
_BINARY_CAP = (2**63 - 1) * _UNIT

_UNNAMED = 10**21 * _UNIT
"""Whole multiples of it have no suffix to print."""

_POWERS = tuple(10**exponent for exponent in range(40))


class QuantityError(ValueError):
    """A text is no quantity; the message is the one of ``k8s.io/apimachinery``."""


def _power(exponent: int) -> int:
    return _POWERS[exponent] if exponent < len(_POWERS) else int(_TEN**exponent)


def _exponent_of(suffix: str) -> int:
    """The exponent written in a suffix like ``e+3``."""
    digits = suffix[2:] if suffix[1:2] in ("+", "-") else suffix[1:]
    if not digits or len(digits) > 9 or not digits.isdecimal():
        raise QuantityError(BAD_SUFFIX)
    exponent = int(digits)
    if exponent > MAX_EXPONENT:
        raise QuantityError(BAD_SUFFIX)
    return -exponent if suffix[1] == "-" else exponent


def _parse(text: str, *, only_print: bool) -> tuple[int, int, str]:
    """Value in nanos, family, and the printed form where it is known (else ``""``).

    With ``only_print`` the value is computed only where the printed form needs it.
    """
    length = len(text)
    if not length or length > MAX_LENGTH:
        raise QuantityError(MALFORMED)
    at = first = 1 if text[0] in "+-" else 0
    while at < length and text[at] == "0":
        at += 1
    start = at
    while at < length and "0" <= text[at] <= "9":
        at += 1
    whole = at - start
    point = at
    if at < length and text[at] == ".":
        at += 1
        while at < length and "0" <= text[at] <= "9":
            at += 1
    places = at - point - 1 if at > point else 0
    suffix_at = at
    while at < length and text[at] in "eEinumkKMGTP":
        at += 1
    letters = at - suffix_at
    if at < length and text[at] in "+-":
        at += 1
    while at < length and "0" <= text[at] <= "9":
        at += 1
    if at < length:
        raise QuantityError(MALFORMED)
    family = DECIMAL
    exponent = 0
    if suffix_at < length:
        letter = text[suffix_at]
        rank = _rank(letter)
        if length - suffix_at == 1 and rank and letter != "K":
            exponent = 3 * rank
        elif length - suffix_at == 2 and rank > 0 and letter != "k" and text[suffix_at + 1] == "i":
            exponent = 10 * rank
            family = BINARY
            if rank >= 5 and point == first and not places:
                raise QuantityError(BAD_NUMBER)
        elif letters == 1 and letter in "eE" and length - suffix_at > 1:
            exponent = _exponent_of(text[suffix_at:])
            family = EXPONENT
        else:
            raise QuantityError(BAD_SUFFIX)

    scale = exponent - places
    if family == BINARY:
        is_small = not places and 14 - whole - exponent * 3 // 10 >= 0
        kept = is_small and whole > 0 and _last_digits(text, start, point) % 8 != 0
    else:
        is_small = whole + places <= 15 and whole + exponent <= 18 and scale >= -9
        kept = (
            whole > 0
            and whole + places <= 18
            and scale >= -9
            and scale % 3 == 0
            and not _ends_in_thousands(text, start, point, places)
        )
    if kept and only_print:
        return 0, family, text
    number = int((text[start:point] + text[point + 1 : suffix_at]) or "0")
    if only_print and is_small:
        printed = _print_small(number, scale, family)
        return 0, family, ("-" + printed if text[0] == "-" and number else printed)
    if family == BINARY:
        value = number << exponent
        value = -(-value * _UNIT // _power(places)) if places else value * _UNIT
        value = min(value, _BINARY_CAP)
        if value < _UNIT:
            family = DECIMAL
    else:
        value = number * _power(scale + 9) if scale >= -9 else -(-number // _power(-9 - scale))
    return (-value if text[0] == "-" else value), family, (text if kept else "")


def _rank(letter: str) -> int:
    """The power of 1000 that a letter stands for, or of 1024 before an ``i``; 0 when none."""
    if letter == "m":
        return -1
    if letter == "G":
        return 3
    if letter == "M":
        return 2
    if letter in "kK":
        return 1
    if letter == "T":
        return 4
    if letter == "P":
        return 5
    if letter == "E":
        return 6
    if letter == "u":
        return -2
    return -3 if letter == "n" else 0


def _last_digits(text: str, start: int, point: int) -> int:
    """The number that the last three digits before ``point`` are."""
    number = 0
    for at in range(max(start, point - 3), point):
        number = number * 10 + ord(text[at]) - 48
    return number


def _ends_in_thousands(text: str, start: int, point: int, places: int) -> bool:
    """Whether the digits end in ``000``."""
    digits = 0
    at = point + places if places else point - 1
    while at >= start and digits < 3:
        if at != point:
            if text[at] != "0":
                return False
            digits += 1
        at -= 1
    return digits == 3


def _print_small(number: int, scale: int, family: int) -> str:
    """The printed form of ``number`` times 2 or 10 to the ``scale``, both within 64 bits."""
    if number == 0:
        return "0"
    if family == BINARY:
        while number % 1024 == 0:
            number //= 1024
            scale += 10
        return str(number) + _BINARY_SUFFIX[scale // 10]
    while scale % 3:
        number *= 10
        scale -= 1
    while number % 1000 == 0:
        number //= 1000
        scale += 3
    if family == EXPONENT:
        return f"{number}e{scale}" if scale else str(number)
    return str(number) + _DECIMAL_SUFFIX[scale]


def _print(value: int, family: int) -> str:
    if value == 0:
        return "0"
    if family == BINARY and value % _UNIT == 0 and not -1024 * _UNIT < value < 1024 * _UNIT:
        value //= _UNIT
        step = 0
        while value % 1024 == 0:
            value //= 1024
            step += 1
        return str(value) + _BINARY_SUFFIX[step]
    exponent = -9
    while value % 1000 == 0:
        value //= 1000
        exponent += 3
    if family == EXPONENT:
        return f"{value}e{exponent}" if exponent else str(value)
    return str(value) + _DECIMAL_SUFFIX.get(exponent, "")


def canonical(text: str) -> str:
    """The quantity as the API prints it: ``1000m`` -> ``1``, ``1024Mi`` -> ``1Gi``.

    Raises:
        QuantityError: it is no quantity.
    """
    value, family, printed = _parse(text, only_print=True)
    return printed or _print(value, family)


def nanos(text: str) -> int:
    """The value in units of 10^-9.

    Raises:
        QuantityError: it is no quantity.
    """
    return _parse(text, only_print=False)[0]


def is_zero(text: str) -> bool:
    """Whether the value is zero, however written.

    Raises:
        QuantityError: it is no quantity.
    """
    return _parse(text, only_print=False)[0] == 0


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as the left value is less than, equal to or greater than the right one.

    Raises:
        QuantityError: one of them is no quantity.
    """
    difference = _parse(left, only_print=False)[0] - _parse(right, only_print=False)[0]
    return (difference > 0) - (difference < 0)


def settled(text: str) -> str:
    """`canonical`, except where that would say another value (``1000E``, whose suffix has no name).

    Raises:
        QuantityError: it is no quantity.
    """
    value, family, printed = _parse(text, only_print=True)
    if printed:
        return printed
    if family == DECIMAL and value and value % _UNNAMED == 0:
        return text
    return _print(value, family)
