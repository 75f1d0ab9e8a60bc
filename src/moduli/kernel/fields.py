"""What a certificate holds, read strictly: whole numbers, floats, rationals, units, records. Part
of the kernel.

Certificates come from files and as objects made in Python, and both are read here, so that there is
one form. In an object a number may be what its text stands for (a `Fraction`, an array of units).
Whatever else it pretends to be, by a subclass or by methods of its own, ends here: what is returned
is made anew of builtin types, and only that is checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from .errors import CertificateRejected

Units = np.ndarray[Any, np.dtype[np.intp]]
T = TypeVar("T")
MAX_BYTES = 2**31
MAX_INTEGER = 20  # digits of a whole number
MAX_DIGITS = 700  # of a numerator or denominator: any sum of floats fits
RATIONAL = re.compile(
    rf"-?(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})(/[1-9][0-9]{{0,{MAX_DIGITS - 1}}})?", re.ASCII
)
LONGEST = 10**MAX_DIGITS
MOST_UNITS = min(2**40, int(np.iinfo(np.intp).max))


# Values ---------------------------------------------------------------------------------------------------------


def whole(x: Any, least: int, most: int, what: str) -> int:
    """An integer from `least` to `most`; True is none."""
    if type(x) is not int or not least <= x <= most:
        raise CertificateRejected(
            f"{what} is {_shown(x)}; a whole number from {least} to {most} is needed"
        )
    return x


def real(x: Any, what: str, *, least: float = -math.inf) -> float:
    """A finite float, at least `least`; an integer only where a float is that number exactly."""
    number = type(x) in (int, float) and -(2**1023) <= x <= 2**1023
    if type(x) is float and math.isfinite(x):
        number = True
    if not number or float(x) != x or x < least:
        more = "" if least == -math.inf else f" of at least {least:g}"
        raise CertificateRejected(f"{what} is {_shown(x)}; a finite number{more} is needed")
    return float(x) + 0.0


def rational(x: Any, what: str) -> Fraction:
    """A rational as a `Fraction` or as its text in lowest terms, of limited length.

    >>> rational("-1/3", "ratio")
    Fraction(-1, 3)
    """
    if type(x) is Fraction:
        top, below = x.numerator, x.denominator
        if type(top) is int and type(below) is int and abs(top) < LONGEST and 0 < below < LONGEST:
            return Fraction(top, below)
        raise CertificateRejected(f"{what} is longer than {MAX_DIGITS} digits, or none")
    if type(x) is not str or not RATIONAL.fullmatch(x):
        raise CertificateRejected(
            f"{what} is {_shown(x)}; a rational of up to {MAX_DIGITS} digits is needed"
        )
    found = Fraction(x)
    if str(found) != x:
        raise CertificateRejected(f"{what} is {_shown(x)}, which is not in lowest terms")
    return found


def text(x: Any, what: str) -> str:
    """A string."""
    if type(x) is not str:
        raise CertificateRejected(f"{what} is {_shown(x)}; text is needed")
    return x


def flag(x: Any, what: str) -> bool:
    """True or False."""
    if type(x) is not bool:
        raise CertificateRejected(f"{what} is {_shown(x)}; true or false is needed")
    return x


def indices(x: Any, what: str) -> Units:
    """Units by number, from a list or an array of them; a unit may stand twice."""
    if type(x) is np.ndarray and x.dtype == np.intp and x.ndim == 1:
        found: Units = np.array(x)
        if len(found) and (found.min() < 0 or found.max() >= MOST_UNITS):
            raise CertificateRejected(f"{what} must be a list of unit numbers, not {_shown(x)}")
        return found
    if type(x) not in (list, tuple) or not all(type(v) is int and 0 <= v < MOST_UNITS for v in x):
        raise CertificateRejected(f"{what} must be a list of unit numbers, not {_shown(x)}")
    return np.array(x, dtype=np.intp)


def units(x: Any, what: str) -> tuple[int, ...]:
    """Different units by number."""
    found = tuple(indices(x, what).tolist())
    if len(set(found)) != len(found):
        raise CertificateRejected(f"{what} must be different units, not {_shown(x)}")
    return found


def items(x: Any, what: str) -> list[Any]:
    """The members of a list."""
    if type(x) not in (list, tuple):
        raise CertificateRejected(f"{what} must be a list, not {_shown(x)}")
    return list(x)


def pairs(x: Any, what: str) -> list[list[Any]]:
    """The members of a list of pairs."""
    found = items(x, what)
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in found):
        raise CertificateRejected(f"{what} must be a list of pairs, not {_shown(x)}")
    return [list(pair) for pair in found]


def record(x: Any, names: Sequence[str], what: str, *, maybe: Sequence[str] = ()) -> dict[str, Any]:
    """An object that has all of these fields, perhaps some of `maybe`, and no others."""
    if (
        type(x) is not dict
        or not all(type(name) is str for name in x)
        or set(x) - set(maybe) != set(names)
    ):
        more = f" and perhaps {', '.join(maybe)}" if maybe else ""
        raise CertificateRejected(
            f"{what} has the fields {', '.join(names)}{more}, not {_shown(x)}"
        )
    return dict(x)


def _shown(x: Any) -> str:
    """The beginning of a value, whatever it is."""
    try:
        return repr(x)[:60]
    except Exception:  # an object of somebody's own may refuse to be shown, too
        return f"an object of type {type(x).__name__}"


# Files and objects ----------------------------------------------------------------------------------------------


def jsonable(x: Any) -> Any:
    """The same with rationals as text, and lists in place of tuples and arrays."""
    if isinstance(x, (str, int, float)) or x is None:
        return x
    if isinstance(x, Fraction):
        return str(x)
    if isinstance(x, np.ndarray):
        return x.tolist()
    if isinstance(x, dict):
        return {name: jsonable(value) for name, value in x.items()}
    return [jsonable(value) for value in x]


def read_json(text: str | bytes, make: Callable[[Any], T]) -> T:
    """What `make` makes of JSON in which no field stands twice and every number is one."""
    if len(text) > MAX_BYTES:
        raise CertificateRejected(f"a certificate of {len(text)} bytes; up to {MAX_BYTES} are read")
    try:
        return make(
            json.loads(
                text,
                object_pairs_hook=_no_doubles,
                parse_constant=_no_constant,
                parse_int=_short_int,
            )
        )
    except RecursionError:
        raise CertificateRejected("not a certificate: its fields are nested too deep") from None
    except UnicodeDecodeError:
        raise CertificateRejected("not a JSON certificate: it is no text") from None
    except ValueError as error:
        raise CertificateRejected(f"not a JSON certificate: {error}") from None


@contextmanager
def made_by_hand(what: str) -> Iterator[None]:
    """Around the reading of an object made in Python: whatever else it is made of, the error is
    one.
    """
    try:
        yield
    except RecursionError:
        raise CertificateRejected(f"not a {what}: its fields are nested too deep") from None
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise CertificateRejected(f"not a {what}: {type(error).__name__}: {error}") from None


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a field occurs twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number here")


def _short_int(digits: str) -> int:
    if len(digits) > MAX_INTEGER:
        raise ValueError(f"the number {digits[:MAX_INTEGER]}... is too long")
    return int(digits)
