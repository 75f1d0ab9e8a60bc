"""Malformed files against every reader: python tests/adversarial/fuzz.py --inputs 100000 [--format
onnx] [--seed 0] [--findings DIR]

An input is made of (seed, format, number), so that any of them comes again. Inputs are tried in
forked workers, some hundred each, under a limit of memory; every one must end as promised: an
answer, or an error of this library on one printable line, within ten seconds and one GiB, without a
warning, without a word on stdout or stderr, and without a file left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import mutations as make
import small_device_files as device

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.equivalence.constant_paths import PathCertificate
from moduli.formats import load_chain, load_samples
from moduli.interface import cli, cli_support
from moduli.kernel.certificate import Certificate
from moduli.training.experiments import Table, load_data, read_config
from moduli.training.job_store import run

SECONDS, MEMORY, CHUNK, COMMAND = 10, 2**30, 400, 40
Finding = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """How one kind of file is made, read in Python, and read on the command line."""

    name: str
    make: Callable[[np.random.Generator], bytes]
    attempt: Callable[[Path, np.random.Generator], None]
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = (0, 4)
    errors: tuple[type[Exception], ...] = ()


# What is done with a file ---------------------------------------------------------------------------------------


def _load(path: Path, rng: np.random.Generator) -> None:
    net = load_chain(path)
    assert repr(net).isprintable(), repr(net)
    if rng.random() < 0.2:
        target = path.with_name(f"again{make.pick(rng, ('.npz', '.safetensors'))}")
        try:
            assert load_chain(mo.save(net, target)) == net, (
                "saved and read again, it is another network"
            )
        finally:
            target.unlink(missing_ok=True)


def _graph(path: Path, rng: np.random.Generator) -> None:
    graph = mo.load(path)
    assert repr(graph).isprintable(), repr(graph)
    if rng.random() < 0.1:
        small = mo.compress(graph)
        assert repr(small).isprintable(), repr(small)


def _checkpoint(path: Path, rng: np.random.Generator) -> None:
    keys = make.pick(rng, (None, None, ("0", "2"), ("a",), "0"))
    load_chain(path, activation=make.pick(rng, ("relu", "relu", "tanh", None)), keys=keys)


def _policy(path: Path, rng: np.random.Generator) -> None:
    keys = make.pick(rng, (("a",), ("a.0", "a"), "q_net", None, ("",)))
    load_chain(path, activation=make.pick(rng, ("relu", "tanh", None)), keys=keys)


def _box(path: Path, rng: np.random.Generator) -> None:
    """Every box lies in the hull, and more than one is said."""
    box = mo.Box.from_vnnlib(path)
    assert repr(box).isprintable()
    assert (len(box.branches) > 1) == any(note.startswith("hull of") for note in box.notes)
    for part in box.branches:
        assert (box.low <= part.low).all()
        assert (part.high <= box.high).all()


def _samples(path: Path, rng: np.random.Generator) -> None:
    make.pick(rng, (load_samples, load_data, lambda p: cli._plane(str(p), mo.Box(-1, 1), 2, 0)))(
        str(path)
    )


def _config(path: Path, rng: np.random.Generator) -> None:
    for _, job in read_config(path):
        assert job.key
        small = {"width": 8, "depth": 2, "steps": 5, "batch": 100, "rows": 50}
        if rng.random() < 0.02 and all(
            job.arguments.get(k, 1) <= most for k, most in small.items()
        ):
            job()


@cache
def _runs() -> tuple[list[tuple[str, Any]], list[bytes]]:
    """A finished sweep."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_bytes(make.CONFIG)
        jobs = read_config(config)
        run([job for _, job in jobs], store=folder)
        return jobs, [(Path(folder) / f"{job.key}.json").read_bytes() for _, job in jobs]


def _stored(rng: np.random.Generator) -> bytes:
    good = _runs()[1]
    if rng.random() < 0.5:
        return make.bend(rng, json.loads(good[0]))
    return make.scramble(rng, good[0], good) if rng.random() < 0.9 else make.pick(rng, good)


def _store(path: Path, rng: np.random.Generator) -> None:
    jobs, good = _runs()
    names = [f"{job.key}.json" for _, job in jobs]
    for name, data in zip(names, good, strict=True):
        path.with_name(name).write_bytes(data)
    try:
        path.with_name(names[0]).write_bytes(path.read_bytes())
        table = Table.of(
            [name for name, _ in jobs], run([job for _, job in jobs], store=path.parent)
        )
        json.dumps([table.to_json(), table.rows(), table.plot_data()])
        cli_support._console().render_lines(table.table())
    finally:
        for name in names:
            path.with_name(name).unlink()


# Certificates ---------------------------------------------------------------------------------------------------


@cache
def _honest() -> list[tuple[Certificate, mo.Network, mo.Network]]:
    """Certificates with their networks: on all inputs, on a box, within a radius."""
    relu = mo.Network.mlp(
        [[1, 2], [2, 4], [-1, 1], [0, 0]],
        [0.5, 1, 0, 2],
        [[1, 1, 0.3, 1]],
        [0.25],
        activation="relu",
    )
    tanh = mo.Network.mlp(
        [[1.0], [-1.0], [0.3], [0.31]],
        [0, 0, 0.1, 0.1],
        [[1, 2, 0.7, -0.2]],
        [0],
        activation="tanh",
    )
    deep = mo.Network.mlp(
        [[1, 0], [0, 1], [1, 1]],
        [3, 0, -3],
        [[1, 0.5, 1], [0.1, 1, 0]],
        [1, 0.1],
        [[1, 1]],
        [0],
        activation="relu",
    )
    first, second = (
        ([[1, 0], [-1, 0], [0, 1]], [0, -0.5, 0.5]),
        ([[1, -1, 0.5], [1, -0.5, -1]], [-0.75, -0.5]),
    )
    shadowed = mo.Network.mlp(*first, *second, [[1, 2]], [0], activation="relu")
    rough = mo.Network.mlp([[0.1], [0.3]], [0.1, 0.3], [[0.1, 0.7]], [0.2], activation="relu")
    asked = [
        (relu, {}),
        (tanh, {}),
        (rough, {}),
        (deep, {"on": mo.Box(-1, 1)}),
        (relu, {"on": mo.Box(0, 1)}),
        (shadowed, {"on": mo.Box(-1, 1)}),
        (tanh, {"radius": 0.05}),
    ]
    answers = [mo.compress(net, **options) for net, options in asked]
    return [(small.certificate, small.network, small.original) for small in answers]


def _certificate(rng: np.random.Generator) -> bytes:
    proofs = [proof.to_json() for proof, _, _ in _honest()]
    chosen = make.pick(rng, proofs)
    if rng.random() < 0.75:
        return make.bend(rng, chosen)
    return make.scramble(
        rng, json.dumps(chosen).encode(), [json.dumps(proof).encode() for proof in proofs]
    )


def _check(path: Path, rng: np.random.Generator) -> None:
    for honest, small, large in _honest():
        try:
            mo.check(path, small, large)
        except mo.CertificateRejected as error:
            last = error
        else:
            return _true(Certificate.from_json(path.read_bytes()), honest, small, large)
    raise last


@cache
def _path() -> tuple[PathCertificate, mo.Network, mo.Network]:
    """A path between two orders of the same units."""
    a = mo.Network.mlp(
        [[1.0], [2.0], [0.5]], [0.0, 1.0, 0.25], [[1.0, -2.0, 0.0]], [0.0], activation="tanh"
    )
    b = mo.Network.mlp(
        [[2.0], [1.0], [-1.0]], [1.0, 0.0, 0.0], [[-2.0, 0.5, -0.5]], [0.0], activation="tanh"
    )
    return mo.path(a, b).proof, a, b


def _bent_path(rng: np.random.Generator) -> bytes:
    good = _path()[0].to_json()
    text = json.dumps(good).encode()
    return make.bend(rng, good) if rng.random() < 0.75 else make.scramble(rng, text, [text])


def _walk(path: Path, rng: np.random.Generator) -> None:
    _, a, b = _path()
    PathCertificate.from_json(path.read_bytes()).verify(a, b)


def _true(claim: Certificate, honest: Certificate, small: mo.Network, large: mo.Network) -> None:
    """What an accepted certificate says holds at points,
    in rationals; fewest units are claimed only where they were proved."""
    assert honest.minimal or not claim.minimal or claim.near or claim.region, "fewest units"
    if claim.near is not None:
        assert (
            claim.near.bound is None
            or claim.near.bound.lower <= small.units
            or claim.near.radius < honest.near.radius
        )
        return
    low, high = (-4.0, 4.0) if claim.region is None else (claim.region.low, claim.region.high)
    inputs = large.widths[0]
    for x in np.random.default_rng(0).uniform(low, high, (5, inputs)).tolist():
        point = [*map(Fraction, x)]
        allowed = Fraction(claim.slack.constant) + Fraction(claim.slack.growth) * max(
            map(abs, point)
        )
        for (a, b), (c, d) in zip(evaluate(small, point), evaluate(large, point), strict=True):
            assert max(a, c) - min(b, d) <= allowed, (
                f"at {x} the outputs differ by more than {allowed}"
            )


FORMATS = {
    one.name: one
    for one in (
        Format("net.onnx", make.onnx_file, _load, ("info", "{}")),
        Format("net.safetensors", make.safetensors_file, _load, ("info", "{}", "--json")),
        Format("net.npz", make.npz_file, _load, ("info", "{}")),
        Format("net.nnet", make.nnet_file, _load, ("info", "{}")),
        Format("net.pt", make.checkpoint_file, _checkpoint, ("info", "{}", "--activation", "relu")),
        Format("net.tflite", device.tflite_file, _graph, ("info", "{}")),
        Format("net.keras", device.keras_file, _graph, ("info", "{}")),
        Format("net.h5", device.h5_file, _graph, ("info", "{}", "--json")),
        Format(
            "net.onnx.gz", lambda rng: make.packed_file(rng, make.onnx_file), _load, ("info", "{}")
        ),
        Format(
            "net.nnet.gz", lambda rng: make.packed_file(rng, make.nnet_file), _load, ("info", "{}")
        ),
        Format(
            "net.zip",
            make.policy_file,
            _policy,
            ("info", "{}", "--activation", "relu", "--keys", "a.0,a"),
        ),
        Format(
            "box.vnnlib.gz",
            lambda rng: make.packed_file(rng, make.box_file),
            _box,
            ("rank", "a.npz", "--on", "box:{}"),
            (0, 2, 3, 4),
        ),
        Format(
            "box.vnnlib", make.box_file, _box, ("rank", "a.npz", "--on", "box:{}"), (0, 2, 3, 4)
        ),
        Format("proof.json", _certificate, _check, ("check", "{}", "a.npz", "b.npz"), (0, 1)),
        Format("path.json", _bent_path, _walk, ()),
        Format("run.json", _stored, _store, (), errors=(ValueError,)),
        Format("sweep.toml", make.config_file, _config, (), errors=(ValueError,)),
        Format(
            "data.npz",
            make.samples_file,
            _samples,
            ("distance", "a.npz", "b.npz", "--on", "{}"),
            (0, 2, 3, 4),
            (ValueError, cli.click.UsageError),
        ),
    )
}


# One input ------------------------------------------------------------------------------------------------------


accepted: list[Path] = []


class Slow(BaseException):
    """Ten seconds have passed."""


def _alarm(*_: Any) -> None:
    raise Slow


def generator(seed: int, form: Format, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, sorted(FORMATS).index(form.name), number])


def made(form: Format, seed: int, number: int) -> bytes:
    """The bytes of an input; archives with doubled names are meant to have them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return form.make(generator(seed, form, number))


def _signature(error: BaseException) -> str:
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "/moduli/" in f.filename]
    return (
        f"{type(error).__name__} at {Path(ours[-1].filename).stem}:{ours[-1].name}"
        if ours
        else type(error).__name__
    )


def _faults(form: Format, error: BaseException) -> str | None:
    """What is wrong with an error, if anything is."""
    text = str(error)
    if not isinstance(error, mo.ModuliError) and type(error) not in form.errors:
        return "escapes"
    if not text or not text.isprintable() or len(text) > 1200:
        return "message"
    return None


def _python(form: Format, path: Path, rng: np.random.Generator) -> tuple[str, str] | None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            form.attempt(path, rng)
            accepted.append(path)
        except (Exception, Slow) as error:
            wrong = "slow" if isinstance(error, Slow) else _faults(form, error)
            if wrong is not None:
                return (
                    f"{wrong}: {_signature(error)}",
                    f"{str(error)[:2000]!r}\n{''.join(traceback.format_exception(error)[-12:])}",
                )
    return (
        (f"warns: {heard[0].filename.rpartition('/')[2]}:{heard[0].lineno}", str(heard[0].message))
        if heard
        else None
    )


def _command(form: Format, path: Path, out: Path) -> tuple[str, str] | None:
    """The same through `main`: exit code and what is printed."""
    sys.argv = ["moduli", *(word.replace("{}", str(path)) for word in form.arguments)]
    code: Any = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(out.open("w"))))
        err = stack.enter_context(out.with_suffix(".err").open("w", errors="backslashreplace"))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        try:
            cli.main()
            code = 0
        except SystemExit as done:
            code = done.code or 0
        except (Exception, Slow) as error:
            return f"command: {_signature(error)}", traceback.format_exc()
    said = out.with_suffix(".err").read_text()
    if code not in form.codes:
        return f"command: exit code {code}", said
    if (
        code in (2, 4)
        and (not said.startswith("moduli: ") or said.count("\n") != 1)
        and "Error: " not in said
    ):
        return "command: stderr is not one line", said
    return ("command: words on stderr", said) if code == 0 and said else None


def one(
    form: Format, data: bytes, folder: Path, seed: list[int], *, command: bool
) -> tuple[str, str] | None:
    """What is wrong with reading some bytes: a kind and its story, or None."""
    place = folder / "in"
    path, before = place / form.name, set(os.listdir(place))
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of work: a busy machine takes longer
    try:
        found = _python(form, path, np.random.default_rng(seed))
        if found is None and command and form.arguments:
            found = _command(form, path, folder / "stdout")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    path.unlink()
    left = (set(os.listdir(place)) - before) | set(os.listdir(folder / "tmp"))
    if found is None and left:
        found = "leaves files", str(sorted(left))
    size = (folder / "noise").stat().st_size
    if found is None and size:
        found = "prints", (folder / "noise").read_text(errors="replace")
    if size:
        os.ftruncate(1, 0)
    return found


# Many inputs ----------------------------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    """Limits and places of a worker."""
    signal.signal(signal.SIGPROF, _alarm)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    os.chdir(folder / "in")
    noise = os.open(folder / "noise", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    os.ftruncate(1, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _worker(form: Format, seed: int, numbers: range, folder: Path, at: mmap.mmap) -> None:
    _prepare(folder)
    with (folder / "found").open("a") as found:
        for number in numbers:
            at[:8] = number.to_bytes(8, "little")
            data = made(form, seed, number)
            wrong = one(form, data, folder, [seed, number], command=number % COMMAND == 0)
            at[8:] = (int.from_bytes(at[8:], "little") + len(accepted)).to_bytes(8, "little")
            accepted.clear()
            if wrong is not None:
                found.write(
                    json.dumps(
                        {"format": form.name, "number": number, "kind": wrong[0], "story": wrong[1]}
                    )
                    + "\n"
                )
                found.flush()


def _forked(work: Callable[[], None], at: mmap.mmap) -> str | None:
    """Run in a forked child; how it died, if it did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    last, since = bytes(at[:8]), time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if bytes(at[:8]) != last:
            last, since = bytes(at[:8]), time.monotonic()
        if (
            time.monotonic() - since > 60 * SECONDS
        ):  # waits for something, as work is limited: no machine is that busy
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.005)
    return None if status == 0 else f"worker died: status {os.waitstatus_to_exitcode(status)}"


def fuzz(form: Format, seed: int, count: int, folder: Path) -> tuple[list[Finding], int]:
    """Try the inputs 0, 1, ..., count - 1 of a format: what was found, and how many were read."""
    with mmap.mmap(-1, 16) as at:
        start = 0
        while start < count:
            numbers = range(start, min(count, start + CHUNK))
            death = _forked(lambda numbers=numbers: _worker(form, seed, numbers, folder, at), at)
            start = numbers.stop
            if death is not None:
                number = int.from_bytes(at[:8], "little")
                story = (folder / "noise").read_text(errors="replace")[-3000:]
                with (folder / "found").open("a") as file:
                    file.write(
                        json.dumps(
                            {"format": form.name, "number": number, "kind": death, "story": story}
                        )
                        + "\n"
                    )
                start = number + 1
                for path in [*(folder / "in").iterdir(), *(folder / "tmp").iterdir()]:
                    if path.name not in ("a.npz", "b.npz", "w.bin", "sub"):
                        path.unlink()
        read = int.from_bytes(at[8:], "little")
    file = folder / "found"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return found, read


def smaller(form: Format, finding: Finding, seed: int, folder: Path, tries: int = 300) -> bytes:
    """The bytes of a finding, with as many left out as it takes to lose it."""
    data, kind = made(form, seed, finding["number"]), finding["kind"]
    if kind.startswith(("hangs", "slow", "worker")):
        return data

    def shrink() -> None:
        best, size, left = data, max(1, len(data) // 2), tries
        _prepare(folder)
        while size and left:
            for start in range(0, len(best), size):
                less, left = best[:start] + best[start + size :], left - 1
                wrong = one(
                    form,
                    less,
                    folder,
                    [seed, finding["number"]],
                    command=kind.startswith("command"),
                )
                if left <= 0 or (wrong is not None and wrong[0] == kind):
                    best = less if left > 0 else best
                    break
            else:
                size //= 2
        (folder / "least").write_bytes(best)

    with mmap.mmap(-1, 16) as at:
        _forked(shrink, at)
    least = folder / "least"
    return least.read_bytes() if least.exists() else data


@contextlib.contextmanager
def places():
    """A folder in memory where there is one: in, tmp, and two networks."""
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shm) as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / "in" / "sub").mkdir(parents=True)
        for target in ("w.bin", "sub/w.bin"):
            (folder / "in" / target).write_bytes(bytes(range(256)) * 2)
        _, small, large = _honest()[0]
        mo.save(small, folder / "in" / "a.npz")
        mo.save(large, folder / "in" / "b.npz")
        yield folder


def campaign(
    count: int,
    seed: int,
    names: list[str],
    keep: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Finding]:
    """Findings of that many inputs in all; the first of each kind is kept with its bytes."""
    everything: list[Finding] = []
    _runs(), _honest(), _path(), make.checkpoints(), make.policies()
    for suffix in (".onnx", ".npz", ".safetensors", ".nnet"):
        make.saved(suffix)
    with places() as folder:
        for name in names:
            share, started = -(-count // len(names)), time.monotonic()
            found, read = fuzz(FORMATS[name], seed, share, folder)
            kinds = Counter(one["kind"] for one in found)
            say(
                f"{name}: {share} inputs, {read} read, {len(found)} findings, {time.monotonic() - started:.0f} s"
            )
            for kind, times in kinds.most_common():
                first = next(one for one in found if one["kind"] == kind)
                line = (
                    (first["story"].splitlines() or [""])[0][:300]
                    .encode("ascii", "backslashreplace")
                    .decode()
                )
                say(f"  {times} x {kind} (number {first['number']}): {line}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    stem = f"{seed}-{first['number']}-{name}"
                    (keep / stem).write_bytes(smaller(FORMATS[name], first, seed, folder))
                    (keep / f"{stem}.txt").write_text(
                        f"{kind}\n{first['story']}", errors="backslashreplace"
                    )
            everything += found
    return everything


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--format", choices=sorted(FORMATS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, help="folder for one file of each kind of finding")
    given = parser.parse_args()
    return bool(campaign(given.inputs, given.seed, given.format or sorted(FORMATS), given.findings))


if __name__ == "__main__":
    sys.exit(main())
