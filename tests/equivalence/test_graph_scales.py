"""Signs and scales of units of graphs: disguised copies are found, proved and moved back; others are not."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

import moduli as mo
from moduli.equivalence.graph_normal_form import moved
from moduli.equivalence.graph_scales import free_numbers
from moduli.kernel.slack import NO_SLACK

from .test_graph_order import NETWORKS, exported

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


class Stream(torch.nn.Module):
    """A residual stream under RMS norms, gates, tied tables."""

    def __init__(self, width=6):
        super().__init__()
        nn = torch.nn
        self.embed = nn.Linear(3, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.gates, self.ups = (
            nn.ModuleList(nn.Linear(width, 5) for _ in range(2)) for _ in range(2)
        )
        self.downs = nn.ModuleList(nn.Linear(5, width) for _ in range(2))
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x)
        for norm, gate, up, down in zip(self.norms, self.gates, self.ups, self.downs, strict=True):
            h = norm(x)
            x = x + down(torch.nn.functional.silu(gate(h)) * up(h))
        return self.last(x)


ALL = {**NETWORKS, "stream": (Stream, (2, 3))}


def centred(module, seed):
    """Numbers of both signs, no two alike; variances positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module


@pytest.fixture(scope="module", params=sorted(ALL))
def graph(request, tmp_path_factory):
    kind, shape = ALL[request.param]
    torch.manual_seed(0)
    module = centred(kind(), 1).eval()
    if request.param == "stream":  # the old exporter knows no RMS norm
        return mo.load(module, input_shape=shape)
    return mo.load(exported(module, shape, tmp_path_factory.mktemp("scales")))


@pytest.fixture(scope="module")
def group(graph):
    return mo.symmetries(graph)


COUNTS = {
    # the halves of the stream that two groups read, their tanh behind; the squeeze; depthwise channels
    "residual": ([2, 3, 8], 2, 2 + 3 + 8),
    # the stream has one sign; scales of two norms; coordinates of keys and of values, head by head
    "attention": ([2, 4, 4, 4, 4, 5, 8], 1 + 2 * 8 + 4 * 4, 2 * 8 + 4 * 4),
    # signs of the stream; scales of both norms; what gates multiply
    "stream": ([5, 5, 6], 6 + 2 * 6 + 2 * 5, 2 * 6 + 2 * 5),
}


def test_what_is_free_is_counted(request, graph, group):
    """By hand, of the modules above."""
    kind = request.node.callspec.params["graph"]
    sizes, signs, scales = COUNTS[kind]
    found = tuple(free_numbers(group.gauges, sign=sign) for sign in (True, False))
    assert sorted(part.size for part in group.units) == sizes
    assert found == (signs, scales)
    orders = sum(math.lgamma(part.size + 1) for part in group.units)
    assert group.log_order == pytest.approx(orders + found[0] * math.log(2))
    # of keys and of values any basis: 4^2 for each head, instead of 4 scales
    assert group.dimension == found[1] + (4 * 12 if kind == "attention" else 0) > 0
    assert group.check()


@pytest.mark.parametrize("seed", range(2))
def test_a_disguise_is_the_same_function_and_is_proved(graph, group, seed):
    twin = group.random(seed)(graph)
    assert twin.digest != graph.digest
    shape = [n if isinstance(n, int) else 2 for n in graph.model.shapes[graph.inputs[0]]]
    x = np.random.default_rng(seed).normal(size=shape)
    assert np.allclose(graph(x), twin(x), rtol=1e-5, atol=1e-6)
    found = mo.equivalent(graph, twin)
    assert (found.status, found.check()) == ("proved", True)
    assert mo.signature(graph) == mo.signature(twin)
    assert mo.canonical(graph).digest == mo.canonical(twin).digest


def test_the_normal_form_carries_its_proof(graph):
    from moduli.equivalence.graph_normal_form import canon

    form = canon(graph)
    assert form.check()
    assert form.signature == mo.signature(graph)
    assert mo.canonical(form.network).digest == form.network.digest
    with pytest.raises(mo.CertificateRejected):
        replace(form, network=graph).check()


def test_alignment_moves_a_disguise_back(graph, group):
    twin = group.random(5)(graph)
    found = mo.align(twin, graph)
    assert found.before > 1
    assert found.after == 0
    assert found.network.digest == found.merge(0.25).digest == graph.digest
    assert found.check()
    assert found.certificate.slack == NO_SLACK
    with pytest.raises(mo.CertificateRejected):
        replace(found, network=twin).check()


def test_a_rounded_disguise_with_any_scales_is_found_again(graph, group):
    """Scales that are no powers of two, all numbers rounded again: near, and told from another network."""
    rng = np.random.default_rng(0)
    model = graph.model.live()
    scales = group.found.rounds(
        (
            gauge.part,
            gauge.move(
                rng.choice([-1.0, 1.0], gauge.free)
                if gauge.sign
                else rng.uniform(0.5, 2, gauge.free)
            ),
        )
        for gauge in group.gauges
    )
    orders = [m for m in group.random(2).rounds if m[-1].kind == "order"]
    twin = graph.source.rewritten(moved(model, (*scales, *orders)), {})
    found = mo.align(twin, graph)
    size = math.sqrt(
        sum(
            float(np.square(a, dtype=float).sum())
            for a in model.constants.values()
            if a.dtype.kind == "f"
        )
    )
    assert found.after < 1e-5 * size < 0.1 * found.before
    other = {
        name: np.roll(a, 1) if a.dtype.kind == "f" else a for name, a in model.constants.items()
    }
    stranger = graph.source.rewritten(replace(model, constants=other), {})
    assert mo.align(stranger, graph).after > 0.1 * size


def test_one_number_more_is_told(graph, group):
    model = graph.model.live()
    rng = np.random.default_rng(1)
    for name in list(model.constants)[::7]:
        array = model.constants[name]
        if array.dtype.kind != "f" or not array.size or name == "k.bias":
            continue  # no softmax can tell a bias of keys
        changed = array.copy()
        at = int(rng.integers(array.size))
        changed.flat[at] = np.nextafter(changed.flat[at], np.inf)
        near = graph.source.rewritten(
            replace(model, constants={**model.constants, name: changed}), {}
        )
        assert mo.equivalent(group.random(1)(near), graph).status != "proved"


def test_the_barrier_goes(graph, group):
    twin = group.random(1)(graph)
    shape = graph.model.shapes[graph.inputs[0]]
    batch = shape[0] if isinstance(shape[0], int) else 2
    x = np.random.default_rng(0).normal(size=(2 * batch, math.prod(shape[1:])))
    found = mo.align(twin, graph)
    barrier = found.barrier(mo.Samples(x), points=3)
    assert barrier.height < 1e-6 < barrier.before
    targets = np.zeros(len(x), dtype=int)
    if graph(x[:batch].reshape(batch, *shape[1:])).ndim == 2:
        assert found.barrier(mo.Samples(x), targets, points=3).measure == "cross-entropy"
    with pytest.raises(mo.ShapeError):
        found.barrier(mo.Samples(x[:, 1:]))


def test_activations_move_a_disguise_back(graph, group):
    """Units that compute the same on the samples, or nothing, are told apart by their numbers."""
    shape = graph.model.shapes[graph.inputs[0]]
    batch = shape[0] if isinstance(shape[0], int) else 2
    x = np.random.default_rng(0).normal(size=(8 * batch, math.prod(shape[1:])))
    twin, samples = group.random(5)(graph), mo.Samples(x)
    if graph.source.result() is not None:  # a module: its parts are not run one by one
        with pytest.raises(mo.UnsupportedModel, match="export it to ONNX"):
            mo.align(twin, graph, by="activations", on=samples)
        return
    found = mo.align(twin, graph, by="activations", on=samples)
    assert found.before > 1
    assert found.after == 0
    assert found.check()
    assert "matched by activations" in found.statement


def test_activations_see_what_numbers_hide(tmp_path):
    """Half of the inputs are always 0; their weights are large and have nothing to do with each other."""
    nn = torch.nn
    net = centred(nn.Sequential(nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Conv2d(6, 2, 2)), 1)
    hidden = net[0].weight.data[:, 2:]
    hidden *= 50
    a = mo.load(exported(net, (1, 4, 4, 4), tmp_path, "a"))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    net[0].weight.data = net[0].weight.data[order]
    net[0].bias.data = net[0].bias.data[order]
    net[2].weight.data = net[2].weight.data[:, order]
    generator = torch.Generator().manual_seed(5)
    net[0].weight.data[:, 2:] = 50 * torch.randn(hidden.shape, generator=generator)
    b = mo.load(exported(net, (1, 4, 4, 4), tmp_path, "b"))
    x = np.random.default_rng(0).normal(size=(20, 4, 4, 4))
    x[:, 2:] = 0
    samples = mo.Samples(x.reshape(20, -1))
    outgoing = next(
        name for name, array in a.model.constants.items() if array.shape == (2, 6, 2, 2)
    )

    def misplaced(by, on=None):
        found = mo.align(a, b, by=by, on=on)
        pair = found.network.model.constants[outgoing], b.model.constants[found.names[outgoing]]
        cosines = [
            float(np.vdot(p, q) / np.linalg.norm(p) / np.linalg.norm(q))
            for p, q in zip(*(np.moveaxis(w, 1, 0) for w in pair), strict=True)
        ]
        return sum(cosine < 1 - 1e-6 for cosine in cosines)

    assert misplaced("activations", samples) == 0 < misplaced("weights")


def test_only_one_architecture_is_aligned(graph, tmp_path):
    torch.manual_seed(3)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    other = mo.load(exported(torch.nn.Sequential(*layers), (1, 3, 5, 5), tmp_path))
    with pytest.raises(mo.ShapeError, match="one architecture"):
        mo.align(graph, other)
    with pytest.raises(ValueError, match="'weights' or 'activations'"):
        mo.align(graph, graph, by="names")
    with pytest.raises(ValueError, match="goes with by='activations'"):
        mo.align(graph, graph, on=mo.Gaussian())
    with pytest.raises(ValueError, match="give the inputs"):
        mo.align(graph, graph, by="activations")


def test_a_rounded_disguise_of_a_small_graph_is_within_a_bound(tmp_path):
    """On a box, by the way of the first moved onto the second; another network is not."""
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    graph = mo.load(exported(net, (1, 2, 4, 4), tmp_path))
    group = mo.symmetries(graph)
    rng = np.random.default_rng(0)
    scales = group.found.rounds((x.part, x.move(rng.uniform(0.5, 2, x.free))) for x in group.gauges)
    twin = graph.source.rewritten(moved(graph.model, (*scales, *group.random(1).rounds[-1:])), {})
    box = mo.Box(-1, 1)
    found = mo.equivalent(twin, graph, on=box, eps=1e-3)
    assert (found.status, found.aligned is None) == ("proved", False)
    assert found.near.everywhere < 1e-4
    assert "after moving units" in found.statement
    assert found.check()
    far = mo.distance(twin, graph, on=box)
    assert far.status == "bounded"
    assert 0 < far.upper < 1e-4
    assert far.check()
    for forged in (replace(found, near=NO_SLACK), replace(found, aligned=None)):
        with pytest.raises(mo.CertificateRejected):
            forged.check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, aligned=replace(found.aligned, network=graph)).check()

    class Liar(type(found.aligned)):
        def proof_on(self, ranges):
            return self

        def verify(self, *given):
            return None

    given = {f.name: getattr(found.aligned, f.name) for f in fields(found.aligned)}
    with pytest.raises(mo.CertificateRejected, match="a class that may say anything"):
        replace(found, aligned=Liar(**given | {"network": graph})).check()
    other = mo.load(exported(centred(net, 3), (1, 2, 4, 4), tmp_path, "other"))
    assert mo.equivalent(other, graph, on=box, eps=1e-3).status != "proved"


class Products(torch.nn.Module):
    """Queries, keys and values, tied or not, with or without a softmax in between, with or without heads."""

    def __init__(self, *, tied, soft, heads):
        super().__init__()
        nn = torch.nn
        self.q, self.v, self.o = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.k = self.q if tied else nn.Linear(6, 6, bias=False)
        self.soft, self.heads = soft, heads

    def forward(self, x):
        def split(t):
            return t.reshape(*t.shape[:-1], self.heads, 6 // self.heads).transpose(-2, -3)

        p = split(self.q(x)) @ split(self.k(x)).transpose(-1, -2)
        y = (torch.softmax(p, -1) if self.soft else p) @ split(self.v(x))
        return self.o(y.transpose(-2, -3).reshape(x.shape))


@pytest.mark.parametrize(
    ("tied", "soft", "heads", "counted", "true"),
    [
        (False, True, 2, 36, 36),
        (True, True, 2, 18, 24),
        (False, False, 2, 38, 38),
        (False, True, 6, 12, 12),
    ],
)
def test_the_dimension_is_that_of_the_fibre_or_less(tied, soft, heads, counted, true):
    """The rank of the Jacobian of outputs at many inputs with respect to all weights. No unit has more of
    its kind than it reads and sends, so that no element but one leaves generic weights where they are.
    """
    torch.manual_seed(0)
    net = Products(tied=tied, soft=soft, heads=heads).double()
    names = [name for name, _ in net.named_parameters()]
    x = torch.randn(40, 3, 6, dtype=torch.float64)

    def outputs(*given):
        return torch.func.functional_call(net, dict(zip(names, given, strict=True)), (x,)).ravel()

    parts = torch.autograd.functional.jacobian(outputs, tuple(p.detach() for p in net.parameters()))
    jacobian = torch.cat([part.reshape(part.shape[0], -1) for part in parts], 1)
    rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    assert jacobian.shape[1] - rank == true
    net = Products(tied=tied, soft=soft, heads=heads)
    assert mo.symmetries(mo.load(net, input_shape=(3, 6))).dimension == counted <= true


def test_heads_along_two_axes_of_one_reshape_are_taken_apart_once():
    class Grid(torch.nn.Module):
        def __init__(self):
            super().__init__()
            nn = torch.nn
            self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x):
            q, k, v = (
                f(x).reshape(*x.shape[:2], 2, 2, 3).permute(0, 2, 3, 1, 4)
                for f in (self.q, self.k, self.v)
            )
            y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
            return self.b(self.a(y.transpose(1, -1)).transpose(2, -1))

    torch.manual_seed(0)
    graph = mo.load(Grid(), input_shape=(5, 12))
    group = mo.symmetries(graph)
    assert group.check()
    assert len({name for name, _ in group.found.places}) == len(group.found.places) > 0
    twin, x = group.random(1)(graph), np.random.default_rng(0).normal(size=(2, 5, 12))
    assert twin.digest != graph.digest
    assert np.allclose(graph(x), twin(x), rtol=1e-5, atol=1e-6)


def test_decayed_weights_have_no_scale():
    """Numbers so small that no scale of the kernel reaches one."""
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 1)
    )
    with torch.no_grad():
        for at, size in ((0, 1e-30), (1, 1e-12)):
            net[0].weight[at] *= size
            net[0].bias[at] *= size
    graph = mo.load(net, input_shape=(2, 4, 4))
    twin = mo.symmetries(graph).random(1)(graph)
    assert mo.signature(graph)
    assert mo.canonical(graph).digest
    assert mo.equivalent(graph, twin).status != "refuted"
    assert mo.align(twin, graph).check()


def test_symmetries_that_are_not_found_again_are_refused(group):
    assert group.check()
    more = replace(group, gauges=(*group.gauges, group.gauges[0]))
    with pytest.raises(mo.CertificateRejected, match="found again"):
        more.check()
    fewer = replace(group, found=replace(group.found, sets=group.found.sets[1:]))
    with pytest.raises(mo.CertificateRejected, match="found again"):
        fewer.check()
