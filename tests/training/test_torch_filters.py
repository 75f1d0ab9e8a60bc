"""What is measured of filters: against removal itself, and sums written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import moduli

torch = pytest.importorskip("torch")

from moduli.kernel.errors import ArgumentError  # noqa: E402
from moduli.pytorch import convolutional, prune_dead  # noqa: E402
from moduli.training import torch_filters  # noqa: E402
from moduli.training.experiments import prunability, read_config  # noqa: E402
from moduli.training.measures import choices  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 2, 7, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 30)


@pytest.fixture(params=[(1, True), (2, False)], ids=["one layer", "two layers"])
def module(request):
    depth, bias = request.param
    return convolutional((2, 7, 5), 6, 3, depth=depth, bias=bias, seed=1)


def test_masks_do_what_removal_does(module):
    """`prune_dead` proves that what is masked can go, and keeps as many parameters."""
    layers = [layer for layer in module if isinstance(layer, torch.nn.Conv2d)]
    units = [np.array([0, 2, 3]), np.array([1, 5])][: len(layers)]
    masked = torch_filters._masked(module, units)
    pruned = prune_dead(masked, torch.from_numpy(X[:2]))
    kept = sum(p.numel() for p in pruned.module.parameters())
    assert kept / sum(p.numel() for p in module.parameters()) == torch_filters._share_kept(
        module, units
    )
    small, large = (torch_filters._outputs(m, X) for m in (pruned.module, masked))
    assert np.allclose(small, large, atol=1e-6)
    assert not np.allclose(large, torch_filters._outputs(module, X), atol=1e-3)


def test_patches_and_contributions_written_out(module):
    spans, contributed = torch_filters._looked_at(module, X)
    padded = np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.array([
        padded[n, :, i : i + 3, j : j + 3].ravel() for n in range(30) for i in range(7) for j in range(5)
    ], dtype=np.float64)  # fmt: skip
    assert spans[0].shape == (18, 18) == torch_filters.span_of_patches(X).shape
    first = module[0]
    weight = first.weight.detach().double().numpy().reshape(6, -1)
    bias = 0.0 if first.bias is None else first.bias.detach().double().numpy()
    squares = np.square(patches @ weight.T + bias).sum(axis=0) / 30
    reader = module[3] if isinstance(module[3], torch.nn.Conv2d) else module[4]
    outgoing = np.square(reader.weight.detach().double().numpy()).reshape(len(reader.weight), 6, -1)
    assert np.allclose(contributed[0], squares * outgoing.sum(axis=(0, 2)), rtol=1e-5)


def test_filters_that_see_less_than_they_have():
    """Of an image of one column, the outer columns of a filter read zeros alone."""
    assert torch_filters.span_of_patches(np.zeros((4, 1, 6, 1), dtype=np.float32)).shape == (9, 0)
    thin = RNG.standard_normal((4, 1, 6, 1)).astype(np.float32)
    assert torch_filters.span_of_patches(thin).shape == (9, 3)


def test_everything_that_stands_beside_a_share(module):
    found = torch_filters.measure(module, X, X, Y, seed=3)
    seen = [torch_filters._rows(m.weight) for m in module if isinstance(m, torch.nn.Conv2d)]
    squares = np.sort(np.square(seen[0]).sum(axis=1))
    assert found["share"] == (np.cumsum(squares) <= 0.1 * squares.sum()).sum() / 6
    assert found["largest"] == pytest.approx(squares[-1] / squares.sum())
    assert len(found["at_norm"]) == len(found["at_random"]) == 4
    with torch.no_grad():
        right = module(torch.from_numpy(X)).argmax(dim=1).numpy() == Y
    assert found["test"] == right.mean()
    asked = choices(seen, [np.arange(6.0)] * len(seen), 0)
    assert [len(units) for units in asked[0]] == [6] * len(seen)
    assert [len(one[0]) for one in asked[2:6]] == [2, 1, 1, 1]


def test_a_run_by_its_configuration(tmp_path):
    (tmp_path / "filters.toml").write_text(
        'data = "digits"\nwidth = 4\ndepth = 1\nimage = [1, 8, 8]\nsteps = 30\nrows = 200\nlr = 0.1\n'
        '[[runs]]\nname = "noisy"\nnoise = { alpha = 1.75, sigma = 0.01 }\n'
    )
    ((name, job),) = read_config(tmp_path / "filters.toml")
    done = job()["result"]
    assert name == "noisy"
    assert done["measure"] == "accuracy"
    assert len(done["predicted"]) == 6
    assert done == job()["result"]
    with pytest.raises(ArgumentError, match=r"image=\[1, 9, 8\]: samples have 64 entries, not 72"):
        prunability("digits", 4, 0, image=[1, 9, 8], steps=1)
    for image in ([1, 8, 8], None):
        with pytest.raises(ArgumentError, match="depth=0: a whole number from 1 on"):
            prunability("digits", 4, 0, image=image, depth=0, steps=1)
    with pytest.raises(ArgumentError, match=r"image=\[64\]: channels, height and width"):
        prunability("digits", 4, 0, image=[64], steps=1)
    for bad in ("[8, 8]", '"8x8"', "[1, 0, 8]", "[1, 8, true]"):
        (tmp_path / "filters.toml").write_text(
            f'data = "digits"\nwidth = 4\nimage = {bad}\n[[runs]]\nname = "a"\n'
        )
        with pytest.raises(ValueError, match=r"image = .*; \[channels, height, width\] is needed"):
            read_config(tmp_path / "filters.toml")


def test_a_sweep_over_colour_images_of_the_user(tmp_path):
    """Images as CIFAR has them, in a file; with channels last they would be read as others."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = rng.integers(0, 128, (24, 3, 32, 32), dtype=np.uint8)
    x[y == 1, 0] += 100  # one class is redder
    arrays = {"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8]}
    np.savez(tmp_path / "colours.npz", **arrays)
    (tmp_path / "colours.toml").write_text(
        'data = "colours"\nimage = [3, 32, 32]\nwidth = 3\ndepth = 2\nbias = true\nsteps = 40\nbatch = 8\nlr = 0.1\n'
        '[[runs]]\nname = "none"\n[[runs]]\nname = "noisy"\nnoise = { alpha = 1.75, sigma = 0.001 }\n'
    )
    code, out, err = moduli(
        *("sweep", "colours.toml", "--store", "runs", "--folder", ".", "--json"), cwd=tmp_path
    )
    assert code == 0, err
    lines = json.loads(out)["lines"]
    assert [line["seeds"] for line in lines] == [1, 1]
    done = [json.loads(p.read_text())["result"] for p in (tmp_path / "runs").glob("*.json")]
    assert all(one["test"] == 1.0 for one in done)  # of three filters one sees red
    np.savez(tmp_path / "colours.npz", **{
        k: v.transpose(0, 2, 3, 1) if k[0] == "x" else v for k, v in arrays.items()
    })  # fmt: skip
    with pytest.raises(ArgumentError, match=r"stored as \[32, 32, 3\]"):
        prunability("colours", 3, 0, folder=str(tmp_path), image=[3, 32, 32], steps=1)


def test_the_whole_way_to_a_smaller_file(tmp_path):
    """Filters that a penalty takes to zero go from the file, with a proof."""
    from moduli.pytorch import fit

    module = convolutional((2, 7, 5), 8, 3, depth=1, bias=True)
    run = fit(module, X, Y, steps=60, lr=0.1, batch=30, penalty={"group_lasso": 0.3})
    zero = int((run.module[0].weight.detach().flatten(1).norm(dim=1) == 0).sum())
    assert zero > 0
    pruned = prune_dead(run.module, torch.from_numpy(X[:2]))
    assert pruned.module[0].out_channels <= 8 - zero
    assert pruned.check()
