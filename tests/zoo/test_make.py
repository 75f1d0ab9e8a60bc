"""The zoo is what PROVENANCE.md says: accuracies measured again, redundant units counted again by
brute force.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import moduli as mo
from moduli.zoo.make import RECIPES, arrays, main, train

ZOO = files("moduli") / "zoo"
NAMES = ("digits-plain", "digits-relu", "digits-tanh", "digits-tanh-grid")


def stated(folder=ZOO) -> dict[str, list[str]]:
    """The rows of the table in PROVENANCE.md, by name."""
    lines = [
        line
        for line in (folder / "PROVENANCE.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def removable(name, folder=ZOO) -> dict[str, int]:
    """Units that can go, by kind, as stated."""
    return {
        kind.strip(" ,"): int(n)
        for kind, n in re.findall(r"([a-z ]+) (\d+)", stated(folder)[name][-1])
    }


def held_out():
    """Test images ``[450, 64]`` and their labels."""
    x, y = load_digits(return_X_y=True)
    _, x, _, y = train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)
    return x, y


def quadrants(x):
    return x.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)


def classes(net) -> int:
    """Units of one hidden tanh layer that no merge, constant or drop removes: by comparing rows,
    one by one.
    """
    hidden, output = net.layers
    sums: list[tuple[list[float], np.ndarray]] = []
    for row, bias, column in zip(hidden.weight, hidden.bias, output.weight.T, strict=True):
        unit = [*row.tolist(), float(bias)]
        if not row.any():
            continue
        for other, total in sums:
            if other == unit:
                total += column
                break
            if other == [-v for v in unit]:
                total -= column
                break
        else:
            sums.append((unit, column.copy()))
    return sum(bool(total.any()) for _, total in sums)


def test_every_file_is_described_and_small():
    found = {entry.name for entry in ZOO.iterdir() if entry.name.endswith(".npz")}
    assert found == {f"{name}.npz" for name in NAMES}
    assert set(stated()) == set(NAMES)
    assert sum(len((ZOO / name).read_bytes()) for name in found) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_stated_architecture_and_accuracy(name):
    net, (shape, *_, accuracy, _) = mo.load(f"zoo:{name}"), stated()[name]
    assert shape == f"{'-'.join(map(str, net.widths))} {net.activations[0]}"
    x, y = held_out()
    measured = (net(quadrants(x) if net.widths[0] == 4 else x).argmax(axis=1) == y).mean()
    assert f"{measured:.4f}" == accuracy


@pytest.mark.parametrize("name", [name for name in NAMES if "relu" not in name])
def test_the_rank_is_what_brute_force_counts(name):
    net = mo.load(f"zoo:{name}")
    rank = mo.rank(net)
    assert rank.lower == rank.upper == classes(net) == net.units - sum(removable(name).values())


def test_the_networks_show_what_they_are_for():
    grid = removable("digits-tanh-grid")
    assert grid.keys() == {"drop", "constant", "merge", "sign twin"}
    assert min(grid.values()) > 0
    assert removable("digits-tanh")["drop"] > 50
    assert set(removable("digits-plain").values()) == {0}


def test_relu_has_no_unit_to_lose():
    net = mo.load("zoo:digits-relu")
    assert mo.rank(net).upper == net.units


def test_parameters_are_float32_numbers():
    for name in NAMES:
        theta = mo.load(f"zoo:{name}").flat()
        assert (theta == theta.astype(np.float32)).all()
    grid = mo.load("zoo:digits-tanh-grid")
    assert (grid.flat() * 4 % 1 == 0).all()


def test_training_twice_gives_the_same_arrays():
    recipe = replace(next(r for r in RECIPES if r.name == "digits-tanh-grid"), epochs=5)
    first, second = (arrays(recipe, train(recipe)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_the_script_makes_the_zoo_again(tmp_path):
    """Other machines round otherwise, so accuracies may differ a little, and the same redundancy
    must come.
    """
    threads = torch.get_num_threads()
    try:
        main(tmp_path)
    finally:
        torch.set_num_threads(threads)
    again = stated(tmp_path)
    for name, (shape, *_, accuracy, _) in stated().items():
        assert again[name][0] == shape
        assert float(again[name][-2]) == pytest.approx(
            float(accuracy), abs=0.1 if "grid" in name else 0.02
        )
    assert min(removable("digits-tanh-grid", tmp_path).values()) > 0
    assert removable("digits-tanh", tmp_path)["drop"] > 50
