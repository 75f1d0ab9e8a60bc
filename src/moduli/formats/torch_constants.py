"""Constants computed from constants, as in ``(x - mean) / (std + eps)``: exactly, or with a
rigorous error bound.

Sums, products, quotients and roots of stored tensors are computed over the reals, in `BallArray`s.
Other functions are left to torch in float64, and named, so that the reader can note it. Nothing is
rounded to float32 in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.exact_numbers import enclose
from moduli.kernel.network import _float64

from .affine_tracer import BallArray, inverse_root_of

Array = np.ndarray[Any, np.dtype[np.float64]]
Constant = Array | BallArray

MAX_EXACT = 2**20  # entries of a constant computed one by one
ROOT_ERROR = 2.0**-119  # of `inverse_root_of`, and of a product with it
WAY_OUT = "store the result as a parameter or buffer first"


def is_constant(value: Any) -> bool:
    return isinstance(value, (np.ndarray, BallArray))


def compute(
    name: str, target: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Constant, bool]:
    """The value of an operation on constants, and whether torch rounded it in float64.

    Args:
        name: of the operation, as torch spells it.
        target: torch's function, for what is left to it; a name is that of a method.
        args, options: arrays, `BallArray`s and plain values.

    Raises:
        UnsupportedModel: an operation that is not known to be a function of its arguments alone.

    >>> import numpy as np
    >>> value, rounded = compute("add", None, (np.array([1.0]), 2.0**-60), {})
    >>> value.is_float(), rounded
    (False, False)
    >>> compute("div", None, (3.0, np.array([4.0])), {})
    (array([0.75]), False)
    """
    exactly = _EXACT.get(name)
    if exactly is not None and _applies(name, args, options):
        return simplified(exactly(*args, **options)), False
    if name in _CHOOSING or name in _ROUNDED:
        return _by_torch(target, args, options), name in _ROUNDED or _rounds(args)
    raise UnsupportedModel(f"parameters are computed from parameters by {name}; {WAY_OUT}")


def simplified(ball: BallArray) -> Constant:
    """A plain array where floats hold the numbers exactly."""
    return ball.centre.hi if ball.is_float() else ball


# Over the reals -------------------------------------------------------------------------------------------------


def _pair(x: Any, y: Any) -> tuple[BallArray, BallArray]:
    """Both as balls of one shape."""
    a, b = _ball(x), _ball(y)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return _spread(a, shape), _spread(b, shape)


def _ball(x: Any) -> BallArray:
    return x if isinstance(x, BallArray) else BallArray.of(np.asarray(x, dtype=np.float64))


def _spread(ball: BallArray, shape: tuple[int, ...]) -> BallArray:
    return ball if ball.shape == shape else ball.map(lambda a: np.broadcast_to(a, shape).copy())


def _add(x: Any, y: Any, alpha: Any = 1) -> BallArray:
    a, b = _pair(x, y)
    _countable(a)
    if alpha != 1:
        b = b.times(_ball(alpha))
    return a.plus(b)


def _sub(x: Any, y: Any, alpha: Any = 1) -> BallArray:
    return _add(x, y, -alpha)


def _mul(x: Any, y: Any) -> BallArray:
    a, b = _pair(x, y)
    return a.times(b)


def _div(x: Any, y: Any) -> BallArray:
    return _mul(x, reciprocal(y))


def reciprocal(x: Any) -> BallArray:
    """1 / x, elementwise, within an error bound.

    Raises:
        UnsupportedModel: an entry is zero.
    """
    return _elementwise(_ball(x), lambda q: 1 / _nonzero(q), 0.0)


def _sqrt(x: Any) -> BallArray:
    return _elementwise(
        _ball(x), lambda q: q * inverse_root_of(_positive(q)) if q else q, ROOT_ERROR
    )


def _rsqrt(x: Any) -> BallArray:
    return _elementwise(_ball(x), lambda q: inverse_root_of(_positive(_nonzero(q))), ROOT_ERROR)


def _nonzero(number: Fraction) -> Fraction:
    if number == 0:
        raise UnsupportedModel("a division by zero; remove it from the model")
    return number


def _positive(number: Fraction) -> Fraction:
    if number < 0:
        raise UnsupportedModel(f"a root of {float(number)!r}; it must not be negative")
    return number


def _square(x: Any) -> BallArray:
    return _mul(x, x)


def _power(x: Any, exponent: Any) -> BallArray:
    return _POWERS[float(exponent)](x)


_POWERS: dict[float, Callable[[Any], BallArray]] = {
    2.0: _square,
    0.5: _sqrt,
    -0.5: _rsqrt,
    -1.0: reciprocal,
    1.0: _ball,
}


def _matmul(x: Any, y: Any) -> BallArray:
    return _ball(x).after(_ball(y))


def _elementwise(ball: BallArray, fn: Callable[[Fraction], Fraction], own: float) -> BallArray:
    """A power with an exponent between -1 and 1 of every entry, right up to a relative error `own`.

    A relative error e of the argument becomes at most 2 e, because 1 / (1 - e) <= 1 + 2 e for e <=
    1/2.
    """
    _countable(ball)
    numbers = [_number(ball, at) for at in np.ndindex(ball.shape)]
    error = _relative(ball, numbers)
    known: dict[Fraction, Fraction] = {}
    for number in numbers:
        if number not in known:
            known[number] = fn(number)
    relative = math.nextafter(2 * error + own, math.inf) if error or own else 0.0
    return BallArray.near([known[number] for number in numbers], relative, ball.shape)


def _number(ball: BallArray, at: Any) -> Fraction:
    low, high = enclose(ball.centre.get(at))
    assert low == high
    return low


def _relative(ball: BallArray, numbers: list[Fraction]) -> float:
    """The largest error of an entry, relative to it."""
    if ball.radius is None:
        return 0.0
    worst = 0.0
    for number, radius in zip(numbers, ball.radius.ravel().tolist(), strict=True):
        if radius == 0:
            continue
        ratio = Fraction(radius) / abs(number) if number else Fraction(1)
        worst = max(worst, math.nextafter(float(ratio), math.inf))
    if worst > 0.5:
        raise UnsupportedModel(
            f"a computed constant is known only up to a relative error of {worst:.2g}; {WAY_OUT}"
        )
    return worst


def _countable(ball: BallArray) -> None:
    if math.prod(ball.shape) > MAX_EXACT:
        raise UnsupportedModel(
            f"a constant of shape {ball.shape} is computed when the model runs; {WAY_OUT}"
        )


def _applies(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether the operation over the reals covers these arguments."""
    if name == "pow":
        return (
            not options
            and len(args) == 2
            and not is_constant(args[1])
            and float(args[1]) in _POWERS
        )
    if name == "div":
        return (
            set(options) <= {"rounding_mode"}
            and options.get("rounding_mode") is None
            and len(args) == 2
        )
    if name in ("matmul", "mm"):
        return all(len(a.shape) == 2 for a in args)
    return set(options) <= {"alpha"}


_EXACT: dict[str, Callable[..., BallArray]] = {
    "add": _add,
    "sub": _sub,
    "rsub": lambda x, y, alpha=1: _sub(y, x, alpha),
    "mul": _mul,
    "div": lambda x, y, rounding_mode=None: _div(x, y),
    "reciprocal": reciprocal,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "square": _square,
    "pow": _power,
    "matmul": _matmul,
    "mm": _matmul,
}


# By torch -------------------------------------------------------------------------------------------------------

# They choose, move or copy numbers: exact in any arithmetic.
_CHOOSING = {
    "abs", "relu", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "cat", "concat",
    "stack", "expand", "expand_as", "repeat", "flip", "tril", "triu", "diag", "diagonal",
    "broadcast_to", "ones_like", "zeros_like", "sign",
}  # fmt: skip
_ROUNDED = {
    "exp", "exp2", "expm1", "log", "log1p", "log2", "softplus", "sigmoid", "tanh", "sin", "cos",
    "sum", "mean", "prod", "linalg_vector_norm", "vector_norm", "norm", "pow", "softmax",
    "_softmax", "cumsum", "matmul", "mv", "dot", "outer", "erf",
}  # fmt: skip


def _by_torch(target: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Array:
    given = tuple(_to_torch(a) for a in args)
    named = {key: _to_torch(a) for key, a in options.items()}
    result = (
        getattr(given[0], target)(*given[1:], **named)
        if isinstance(target, str)
        else target(*given, **named)
    )
    if not hasattr(result, "detach"):
        raise UnsupportedModel(f"parameters are computed from parameters; {WAY_OUT}")
    return _float64(result, "a computed constant")


def _to_torch(value: Any) -> Any:
    """Constants as float64 tensors, and float64 where another floating type is asked for."""
    import torch

    if is_constant(value):
        return torch.tensor(value.centre.hi if isinstance(value, BallArray) else value)
    if isinstance(value, tuple):
        return tuple(_to_torch(part) for part in value)
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _rounds(args: tuple[Any, ...]) -> bool:
    """Whether an argument has more digits than torch is given."""
    flat = [part for a in args for part in (a if isinstance(a, tuple) else (a,))]
    return any(isinstance(part, BallArray) for part in flat)
