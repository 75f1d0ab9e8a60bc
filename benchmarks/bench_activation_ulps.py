"""How far activation functions of torch, onnxruntime and numpy are from the functions over the
reals, in units, seen from outside.

python benchmarks/bench_activation_ulps.py [stride]        (257 by default; about three minutes)

A unit at x is 2 u max(1, |f(x)|), where u is half the distance from 1 to the next number: 2^-24 for
float32, 2^-11 for float16, 2^-8 for bfloat16. It is the spacing of numbers just above f(x) or more,
and for small values it is that of 1. Rounding f(x) alone costs half a unit at most, a quarter where
|f| < 1.

float16 and bfloat16: all finite inputs. float32: all with 1/16 <= |x| < 32, where errors are largest
(with a stride of 512 or more, one in stride // 256), bit patterns that are multiples of the stride
(an odd one, so that low bits vary), 2^22 random inputs, and all neighbours of places where
implementations change formulas; sin up to 1e4 only. Calls have odd lengths, so that their ends meet
scalar code; more inputs come in calls of 1 to 31, and with a step in memory. What is seen is a lower
bound of the true largest error, except where all inputs were tried. Inputs for which |f(x)| is
beyond the numbers of the type do not count; outputs that are not finite for other inputs are listed
instead. Square roots and quotients are in spacings of the type at the result: half of one is a
correctly rounded result.

A second, smaller table: whether sums of 4096 products are rounded once or on the way, and which
operations lose subnormal numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import scipy
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser
from rivals.common import table
from scipy import special

Array = np.ndarray[Any, Any]
Form = Callable[[Any], Any]

CALL = 1_000_003  # inputs of a long call
NEAR = 1 << 12  # neighbours on both sides of a place
SHORT = (1, 7, 8, 9, 31)
DRAWS = 1 << 22
ROWS = 1000  # of a softmax
TERMS = 4096  # of a sum of products
PLACES = (
    0.0, 0.044715, 0.125, 0.25, 0.3, 0.347, 0.4, 0.5, 0.55, 0.625, 0.693147, 0.75, 0.84375, 0.875,
    0.921875, 1.0, 1.25, 1.4142135, 1.5707964, 2.0, 2.857, 3.0, 3.1415927, 3.832507, 3.925, 4.0,
    5.0, 5.9, 6.0, 6.2831855, 7.90531, 8.0, 8.664, 9.0, 9.01, 10.0, 12.0, 15.94, 16.0, 16.635532,
    17.3287, 18.0, 20.0, 22.1807, 25.0, 32.0, 40.0, 44.361, 45.0, 50.0, 64.0, 80.0, 87.33654,
    88.0, 88.3762626, 88.72284, 89.0, 90.0, 100.0, 103.97208, 104.0, 128.0, 709.78, 1e3, 1e4, 65504.0,
    1e6, 1e10, 1e13, 1.8e19, 1e30, 3.4e38, 2.0**-12, 2.0**-24, 2.0**-126,
)  # fmt: skip
OF_NUMPY = {"float32": np.float32, "float16": np.float16}
UNITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

REAL: dict[str, Form] = {
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "erf": special.erf,
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
    "sin": np.sin,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "exp": np.exp,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softmax": lambda x: special.softmax(x, axis=-1),
    "sqrt": np.sqrt,
    "quotient": lambda x: x[:1] / x[1:],
}
IN_ROWS = ("softmax", "sqrt", "quotient")

TORCH: dict[str, dict[str, Form]] = {
    "tanh": {"tanh": torch.tanh},
    "sigmoid": {"sigmoid": torch.sigmoid},
    "erf": {"erf": torch.erf},
    "gelu": {
        "gelu": F.gelu,
        "x / 2 (1 + erf(x / sqrt 2))": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    },
    "gelu_tanh": {
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "written out": lambda x: 0.5 * x * (1 + torch.tanh((x + 0.044715 * x**3) * 0.7978845608)),
    },
    "silu": {"silu": F.silu, "x sigmoid(x)": lambda x: x * torch.sigmoid(x)},
    "softplus": {"softplus": F.softplus, "log1p(exp(x))": lambda x: torch.log1p(torch.exp(x))},
    "sin": {"sin": torch.sin},
    "elu": {"elu": F.elu},
    "exp": {"exp": torch.exp},
    "mish": {"mish": F.mish, "x tanh(softplus(x))": lambda x: x * torch.tanh(F.softplus(x))},
    "hardswish": {"hardswish": F.hardswish},
    "softsign": {"softsign": F.softsign},
    "softmax": {"softmax": lambda x: torch.softmax(x, -1)},
    "sqrt": {"sqrt": torch.sqrt},
    "quotient": {"x / y": lambda x: x[:1] / x[1:]},
}

NUMPY: dict[str, dict[str, Form]] = {
    "tanh": {"tanh": np.tanh},
    "sigmoid": {"1 / (1 + exp(-x))": lambda x: 1 / (1 + np.exp(-x)), "scipy expit": special.expit},
    "erf": {"scipy erf": special.erf},
    "gelu": {"x / 2 (1 + erf(x / sqrt 2))": lambda x: 0.5 * x * (1 + special.erf(x / 2**0.5))},
    "gelu_tanh": {
        "written out": lambda x: 0.5 * x * (1 + np.tanh((x + 0.044715 * x**3) * 0.7978845608))
    },
    "silu": {"x / (1 + exp(-x))": lambda x: x / (1 + np.exp(-x))},
    "softplus": {
        "log1p(exp(x))": lambda x: np.log1p(np.exp(x)),
        "logaddexp(0, x)": lambda x: np.logaddexp(0, x),
    },
    "sin": {"sin": np.sin},
    "elu": {
        "expm1(x)": lambda x: np.where(x > 0, x, np.expm1(x)),
        "exp(x) - 1": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    },
    "exp": {"exp": np.exp},
    "mish": {"x tanh(log1p(exp(x)))": lambda x: x * np.tanh(np.log1p(np.exp(x)))},
    "hardswish": {"x clip(x + 3, 0, 6) / 6": lambda x: x * np.clip(x + 3, 0, 6) / 6},
    "softsign": {"x / (1 + abs(x))": lambda x: x / (1 + np.abs(x))},
    "softmax": {
        "exp(x - max) / sum": lambda x: normed(np.exp(x - x.max(axis=-1, keepdims=True))),
        "scipy softmax": lambda x: special.softmax(x, axis=-1),
    },
    "sqrt": {"sqrt": np.sqrt},
    "quotient": {"x / y": lambda x: x[:1] / x[1:]},
}

ERF_GELU = "a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)"
TANH_GELU = (
    "s = Mul (x, x) t = Mul (s, x) a = Mul (t, cubic) b = Add (x, a) c = Mul (b, slope) "
    "d = Tanh (c) e = Add (d, one) g = Mul (x, half) y = Mul (g, e)"
)
CONSTANTS = {
    "half": 0.5, "one": 1.0, "root": 2**0.5, "cubic": 0.044715, "slope": 0.7978845608, "three": 3.0,
}  # fmt: skip
ONNX: dict[str, dict[str, str]] = {
    "tanh": {"Tanh": "y = Tanh (x)"},
    "sigmoid": {"Sigmoid": "y = Sigmoid (x)"},
    "erf": {"Erf": "y = Erf (x)"},
    "gelu": {"Gelu": "y = Gelu (x)", "written out": ERF_GELU},
    "gelu_tanh": {"Gelu": 'y = Gelu <approximate = "tanh"> (x)', "written out": TANH_GELU},
    "silu": {"x Sigmoid(x)": "a = Sigmoid (x) y = Mul (x, a)"},
    "softplus": {"Softplus": "y = Softplus (x)"},
    "sin": {"Sin": "y = Sin (x)"},
    "elu": {"Elu": "y = Elu (x)"},
    "exp": {"Exp": "y = Exp (x)"},
    "mish": {
        "Mish": "y = Mish (x)",
        "x Tanh(Softplus(x))": "a = Softplus (x) b = Tanh (a) y = Mul (x, b)",
    },
    "hardswish": {"HardSwish": "y = HardSwish (x)"},
    "softsign": {"Softsign": "y = Softsign (x)"},
    "softmax": {"Softmax": "y = Softmax (x)"},
    "sqrt": {"Sqrt": "y = Sqrt (x)", "Pow(x, 0.5)": "y = Pow (x, half)"},
    "quotient": {"Div": "a, b = Split <axis = 0, num_outputs = 2> (x) y = Div (a, b)"},
}

OF_TORCH: dict[str, Callable[[Any, Any], Any]] = {
    "x + x": lambda x, w: x + x,
    "3 x": lambda x, w: 3 * x,
    "relu": lambda x, w: torch.relu(x),
    "vector @ matrix": lambda x, w: x[:1] @ w,
    "matrix @ matrix": lambda x, w: x @ w,
    "linear": lambda x, w: F.linear(x, w.T.contiguous()),
    "conv1d": lambda x, w: F.conv1d(x[:, :, None], w.T[:, :, None].contiguous())[:, :, 0],
}
OF_ONNX = {
    "Add": "y = Add (x, x)",
    "Mul": "y = Mul (x, three)",
    "Relu": "y = Relu (x)",
    "MatMul": "y = MatMul (x, w)",
    "Gemm": "y = Gemm (x, w)",
}
OF_ARRAYS: dict[str, Callable[[Any, Any], Any]] = {
    "x + x": lambda x, w: x + x,
    "3 x": lambda x, w: 3 * x,
    "maximum(x, 0)": lambda x, w: np.maximum(x, 0),
    "matrix @ matrix": lambda x, w: x @ w,
    "(x[:, None] * w).sum(0)": lambda x, w: (x[0][:, None] * w).sum(0)[None],
}
ENTRYWISE = ("x + x", "3 x", "relu", "Add", "Mul", "Relu", "maximum(x, 0)")


class Seen(NamedTuple):
    """The largest error in units, the input where, and those whose outputs are not finite."""

    k: float
    at: float
    lost: Array


def normed(powers: Array) -> Array:
    return powers / powers.sum(axis=-1, keepdims=True)


def session(
    body: str, dtype: str, rank: int = 1, optimised: bool = True, w: Array | None = None
) -> Form:
    """Of a graph from x to y, in one thread."""
    kind = {"float32": "float"}.get(dtype, dtype)
    shapes = [f"{kind}[{','.join(axes[:rank])}]" for axes in ("ab", "cd")]
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 22]> g ({shapes[0]} x) => ({shapes[1]} y) '
        f"{{ {body} }}"
    )
    constants = CONSTANTS if w is None else CONSTANTS | {"w": w}
    for name, value in constants.items():
        constant = np.array(value, dtype=OF_NUMPY[dtype])
        model.graph.initializer.append(numpy_helper.from_array(constant, name))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run
    return lambda x: run(None, {"x": x})[0]


def in_torch(form: Form, dtype: str) -> Form:
    """On arrays; bfloat16 comes as float32 numbers that are exact in it."""
    kind = getattr(torch, dtype)

    def run(x: Array) -> Array:
        entry = torch.from_numpy(x).to(kind)
        if not x.flags.c_contiguous:
            entry = entry.repeat_interleave(2)[::2]
        out = form(entry)
        assert out.dtype == kind
        return out.double().numpy()

    return run


def in_numpy(form: Form, dtype: str) -> Form:
    def run(x: Array) -> Array:
        return np.asarray(form(x)).astype(dtype, copy=False)

    return run


def forms(name: str, dtype: str) -> dict[tuple[str, str], Form]:
    """By runtime and what is called: the function on arrays."""
    found = {("torch", label): in_torch(form, dtype) for label, form in TORCH[name].items()}
    if dtype == "bfloat16":
        return found
    rank = 2 if name in IN_ROWS else 1
    for label, body in ONNX[name].items():
        found["onnxruntime", label] = session(body, dtype, rank)
        if label == "written out":
            found["onnxruntime", f"{label}, not optimised"] = session(body, dtype, rank, False)
    for label, form in NUMPY[name].items():
        found["numpy", label] = in_numpy(form, dtype)
    return found


def rounded(x: Array, dtype: str) -> Array:
    """To the type; bfloat16 as float32."""
    x = x.astype("float32")
    return (
        torch.from_numpy(x).bfloat16().float().numpy() if dtype == "bfloat16" else x.astype(dtype)
    )


def narrow(dtype: str) -> Array:
    """All finite numbers of a type of 16 bits; bfloat16 as float32."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    if dtype == "float16":
        x = bits.astype(np.uint16).view(np.float16)
    else:
        x = (bits << 16).view(np.float32)
    return x[np.isfinite(x)]


def wide(stride: int) -> Array:
    """float32 numbers: of the middle, by bit pattern, at random, near places."""
    rng = np.random.default_rng(0)
    at = np.array(PLACES, dtype=np.float32).view(np.uint32).astype(np.int64)
    beside = np.clip(at[:, None] + np.arange(-NEAR, NEAR + 1), 0, 0x7F7FFFFF).astype(np.uint32)
    beside = beside.ravel().view(np.float32)
    middle = np.array([1 / 16, 32], dtype=np.float32).view(np.uint32)
    middle = np.arange(*middle, max(1, stride // 256), dtype=np.uint32).view(np.float32)
    x = np.concatenate([
        middle,
        -middle,
        np.arange(0, 1 << 32, stride, dtype=np.uint32).view(np.float32),
        rng.uniform(-8, 8, DRAWS // 2).astype(np.float32),
        rng.uniform(-110, 110, DRAWS // 2).astype(np.float32),
        beside,
        -beside,
    ])  # fmt: skip
    return x[np.isfinite(x)]


def calls(x: Array, dtype: str) -> Iterator[Array]:
    """All of them in long calls of odd length; many with a step in memory; some in short calls."""
    for start in range(0, len(x), CALL):
        yield x[start : start + CALL]
    yield x[1:CALL]
    yield x[:: max(1, len(x) // CALL)].repeat(2)[::2]
    some = rounded(np.random.default_rng(2).uniform(-12, 12, 1 << 14), dtype)
    start = 0
    while start < len(some):
        length = SHORT[start % len(SHORT)]
        yield some[start : start + length]
        start += length


def logits(width: int, dtype: str) -> Iterator[Array]:
    """Rows in [-30, 30], in [-3, 3] and up to 1000, and rows of equal ones."""
    rng = np.random.default_rng(width)
    for scale in (30, 3, 1000, 0):
        yield rounded(scale * rng.uniform(-1, 1, (ROWS, width)), dtype)


def pairs(dtype: str) -> Iterator[Array]:
    """Two rows of positive numbers: bit patterns at random, and in [1, 4]."""
    rng = np.random.default_rng(3)
    if dtype == "float32":
        yield rng.integers(1, 0x7F800000, (2, DRAWS), dtype=np.uint32).view(np.float32)
    else:
        positive = narrow(dtype)
        yield rng.choice(positive[positive > 0], (2, DRAWS))
    yield rounded(rng.uniform(1, 4, (2, DRAWS)), dtype)


def compared(out: Array, x: Array, exact: Array, dtype: str, by_spacing: bool) -> Seen:
    """In units, or in spacings of the type at the result."""
    unit, info = UNITS[dtype], torch.finfo(getattr(torch, dtype))
    meant = np.abs(exact) <= info.max
    x = np.broadcast_to(x[: len(out)], out.shape)[meant]
    out, exact = out[meant].astype(np.float64), exact[meant]
    if not len(out):
        return Seen(0.0, 0.0, x)
    finite = np.isfinite(out)
    size = np.maximum(1, np.abs(exact))
    if by_spacing:
        size = np.ldexp(1.0, np.frexp(np.maximum(info.smallest_normal, np.abs(exact)))[1] - 1)
    off = np.where(finite, np.abs(out - exact), 0) / (unit * size)
    worst = int(np.argmax(off))
    return Seen(float(off[worst]), float(x[worst]), x[~finite])


def measured(name: str, entries: Iterator[Array], dtype: str) -> dict[tuple[str, str], Seen]:
    """What each form of a function does to the inputs."""
    runs = forms(name, dtype)
    found: dict[tuple[str, str], list[Seen]] = {key: [] for key in runs}
    with np.errstate(all="ignore"):
        for x in entries:
            exact = REAL[name](x.astype(np.float64))
            for key, run in runs.items():
                seen = compared(run(x), x, exact, dtype, name in ("sqrt", "quotient"))
                found[key].append(seen)
    return {
        key: max(parts, key=lambda part: part.k)._replace(
            lost=np.unique(np.concatenate([part.lost for part in parts]).astype(np.float64))
        )
        for key, parts in found.items()
    }


def up(k: float) -> str:
    """Two digits, rounded up."""
    short = Context(prec=2, rounding=ROUND_CEILING).create_decimal(k)
    return f"{short.quantize(Decimal(1).scaleb(short.adjusted() - 1)):f}"


def cells(by_type: Mapping[str, Seen]) -> list[str]:
    """A number for each type, where that of float32 is seen, and for which inputs nothing finite
    comes out.
    """
    gaps = [
        f"{dtype}: {len(seen.lost):,} in [{seen.lost[0]:.4g}, {seen.lost[-1]:.4g}]"
        for dtype, seen in by_type.items()
        if len(seen.lost)
    ]
    numbers = [up(by_type[dtype].k) if dtype in by_type else "-" for dtype in UNITS]
    return [*numbers, f"{by_type['float32'].at:.6g}", "; ".join(gaps)]


def functions(stride: int) -> Iterator[list[str]]:
    inputs = {"float32": wide(stride), "float16": narrow("float16"), "bfloat16": narrow("bfloat16")}

    def entries(name: str, dtype: str) -> Iterator[Array]:
        if name.startswith("softmax"):
            return logits(int(name.split()[-1]), dtype)
        if name in IN_ROWS:
            return pairs(dtype)
        x = inputs[dtype]
        return calls(x[np.abs(x) <= 1e4] if (name, dtype) == ("sin", "float32") else x, dtype)

    for name in [*(n for n in REAL if n not in IN_ROWS), "softmax of 10", "softmax of 1000",
                 "sqrt", "quotient"]:  # fmt: skip
        seen = {dtype: measured(name.split()[0], entries(name, dtype), dtype) for dtype in UNITS}
        print(f"{name} done", file=sys.stderr, flush=True)
        for key in seen["float32"]:
            yield [name, *key, *cells({t: seen[t][key] for t in UNITS if key in seen[t]})]


def operations(dtype: str, w: Array) -> dict[tuple[str, str], Form]:
    """By runtime and label, of rows, with a matrix of weights."""
    kind = getattr(torch, dtype)
    found = {
        ("torch", label): in_torch(lambda x, f=f: f(x, torch.from_numpy(w).to(kind)), dtype)
        for label, f in OF_TORCH.items()
    }
    if dtype != "bfloat16":
        for label, body in OF_ONNX.items():
            found["onnxruntime", label] = session(body, dtype, rank=2, w=w)
        for label, f in OF_ARRAYS.items():
            found["numpy", label] = in_numpy(lambda x, f=f: f(x, w), dtype)
    return found


def arithmetic() -> Iterator[list[str]]:
    rng = np.random.default_rng(4)
    worst: dict[tuple[str, str], dict[str, str]] = {}
    lost: dict[tuple[str, str], list[str]] = {}
    for dtype in UNITS:
        x, w = (rounded(rng.uniform(0, 1 / 16, n), dtype) for n in ((64, TERMS), (TERMS, 64)))
        exact = x.astype(np.float64) @ w.astype(np.float64)
        for key, run in operations(dtype, w).items():
            if key[1] not in ENTRYWISE:
                out = run(x)
                seen = compared(out, x[:, :64], exact[: len(out)], dtype, by_spacing=True)
                worst.setdefault(key, {})[dtype] = up(seen.k)
        tiny = torch.finfo(getattr(torch, dtype)).smallest_normal / 16
        small = rounded(np.full((64, 1024), tiny), dtype)
        for key, run in operations(dtype, rounded(np.eye(1024), dtype)).items():
            if (run(small) == 0).any():
                lost.setdefault(key, []).append(dtype)
    for key in operations("float32", w):
        errors = [worst.get(key, {}).get(dtype, "-") for dtype in UNITS]
        yield [*key, *errors, ", ".join(lost.get(key, []))]


def main() -> None:
    stride = int(sys.argv[1]) if len(sys.argv) > 1 else 257
    torch.set_num_threads(1)
    simd = ", ".join(
        np.show_config(mode="dicts")["SIMD Extensions"].get("found", ["no more than its baseline"])
    )
    title = (
        f"torch {torch.__version__}, onnxruntime {ort.__version__}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}; torch uses {torch.backends.cpu.get_cpu_capability()}, "
        f"numpy finds {simd}; float32: stride {stride}"
    )
    head = ("function", "runtime", "called or written as", *UNITS, "float32: at")
    table(title, (*head, "not finite where f is"), functions(stride))
    title = f"sums of {TERMS} positive products, errors in spacings of the result"
    table(title, ("runtime", "operation", *UNITS, "subnormals are lost"), arithmetic())


if __name__ == "__main__":
    main()
