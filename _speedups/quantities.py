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

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")

_UNIT = 10**9
_BINARY_CAP = (2**63 - 1) * _UNIT

_UNNAMED = 10**21 * _UNIT

_POWERS = tuple(10**exponent for exponent in range(40))

DECIMAL, BINARY, EXPONENT = 0, 1, 2


class QuantityError(ValueError):
    """A text is no quantity; the message is the one of ``k8s.io/apimachinery``."""


def _power(exponent: int) -> int:
    return _POWERS[exponent] if exponent < 40 else 10**exponent


def _exponent_of(suffix: str) -> int:
    """The exponent written in a suffix like ``e+3``."""
    digits = suffix[2:] if suffix[1:2] in ("+", "-") else suffix[1:]
    if not digits or len(digits) > 9 or not digits.isdecimal():
        raise QuantityError(BAD_SUFFIX)
    exponent = int(digits)
    if exponent > MAX_EXPONENT:
        raise QuantityError(BAD_SUFFIX)
    return -exponent if suffix[1] == "-" else exponent


def _parse(text: str) -> tuple[int, int, str]:
    """Value in nanos, family, and the printed form where the text itself is it (else ``""``)."""
    length = len(text)
    if not length or length > MAX_LENGTH:
        raise QuantityError(MALFORMED)
    at = 1 if text[0] in "+-" else 0
    negative = text[0] == "-"
    start = at
    while at < length and "0" <= text[at] <= "9":
        at += 1
    integer = text[start:at]
    fraction = ""
    if at < length and text[at] == ".":
        at += 1
        start = at
        while at < length and "0" <= text[at] <= "9":
            at += 1
        fraction = text[start:at]
    start = at
    while at < length and text[at] in "eEinumkKMGTP":
        at += 1
    letters = at
    if at < length and text[at] in "+-":
        at += 1
    while at < length and "0" <= text[at] <= "9":
        at += 1
    if at < length:
        raise QuantityError(MALFORMED)
    suffix = text[start:]
    family = DECIMAL
    if suffix in _DECIMAL:
        exponent = _DECIMAL[suffix]
    elif suffix in _BINARY:
        exponent = _BINARY[suffix]
        family = BINARY
        if exponent >= 50 and not integer and not fraction:
            raise QuantityError(BAD_NUMBER)
    elif letters - start == 1 and suffix[0] in "eE" and len(suffix) > 1:
        exponent = _exponent_of(suffix)
        family = EXPONENT
    else:
        raise QuantityError(BAD_SUFFIX)

    integer = integer.lstrip("0") or "0"
    digits = integer + fraction
    number = int(digits)
    scale = exponent - len(fraction)
    if family == BINARY:
        value = number << exponent
        kept = (
            not fraction and number & 7 != 0 and 14 - len(integer) - exponent * 3 // 10 >= 0 and value < 9223372036854775808
        )
        if fraction:
            divisor = _power(len(fraction))
            value = -(-value * _UNIT // divisor)
        else:
            value = value * _UNIT
        if value > _BINARY_CAP:
            value = _BINARY_CAP
        if value < _UNIT:
            family = DECIMAL
    else:
        kept = len(digits) <= 18 and scale >= -9 and scale % 3 == 0 and digits[0] != "0" and not digits.endswith("000")
        value = number * _power(scale + 9) if scale >= -9 else -(-number // _power(-9 - scale))
    return (-value if negative else value), family, (text if kept else "")


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
    value, family, kept = _parse(text)
    return kept or _print(value, family)


def nanos(text: str) -> int:
    """The value in units of 10^-9.

    Raises:
        QuantityError: it is no quantity.
    """
    return _parse(text)[0]


def is_zero(text: str) -> bool:
    """Whether the value is zero, however written.

    Raises:
        QuantityError: it is no quantity.
    """
    return _parse(text)[0] == 0


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as the left value is less than, equal to or greater than the right one.

    Raises:
        QuantityError: one of them is no quantity.
    """
    difference = _parse(left)[0] - _parse(right)[0]
    return (difference > 0) - (difference < 0)


def settled(text: str) -> str:
    """`canonical`, except where that would say another value (``1000E``, whose suffix has no name).

    Raises:
        QuantityError: it is no quantity.
    """
    value, family, kept = _parse(text)
    if kept or (family == DECIMAL and not -_UNNAMED < value < _UNNAMED):
        return text
    return _print(value, family)
