"""Data, one run, configurations, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from moduli.formats.tables import read_table
from moduli.kernel.errors import UnsupportedModel
from moduli.training.experiments import Table, load_data, prunability, read_config
from moduli.training.job_store import run
from moduli.training.measures import measure

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    told = load_data("digits")
    assert told.x.shape == (1347, 64)
    assert told.x_test.shape == (450, 64)
    every = np.concatenate([told.x, told.x_test]).astype(np.float64)
    x, _ = load_digits(return_X_y=True)
    scaled = np.round((every - every.min()) / (every.max() - every.min()) * 16)
    assert sorted(map(bytes, scaled.astype(np.uint8))) == sorted(map(bytes, x.astype(np.uint8)))
    assert abs(told.x.mean()) < 1e-3
    assert abs(told.x.std() - 1) < 1e-3


def test_files_and_folders(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.standard_normal((20, 2, 3)), "y_train": rng.integers(0, 3, 20),
        "x_test": rng.standard_normal((5, 2, 3)), "y_test": rng.integers(0, 3, 5),
    }  # fmt: skip
    np.savez(tmp_path / "mine.npz", **arrays)
    assert load_data(str(tmp_path / "mine.npz")).x.shape == (20, 6)
    assert load_data("mine", tmp_path).y.dtype == np.int64
    monkeypatch.setenv("MODULI_DATA", str(tmp_path))
    assert load_data("mine").x_test.shape == (5, 6)
    np.savez(tmp_path / "bad.npz", x=np.zeros(3))
    np.savez(tmp_path / "odd.npz", **{**arrays, "y_test": np.zeros(4)})
    with pytest.raises(ValueError, match="needed are x_train, y_train"):
        load_data("bad")
    with pytest.raises(ValueError, match="do not fit together"):
        load_data("odd")
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_data("nothing")
    monkeypatch.delenv("MODULI_DATA")
    with pytest.raises(ValueError, match="bundled is 'digits'"):
        load_data("nothing")


def test_runs_are_independent_across_alpha_and_the_same_again():
    common = {"data": "digits", "width": 50, "steps": 60, "lr": 0.05}
    runs = [
        prunability(seed=0, noise={"kind": "isotropic", "alpha": a, "sigma": 0.05}, **common)
        for a in (1.5, 1.5, 1.75)
    ]
    assert runs[0] == runs[1]
    assert runs[0]["test"] != runs[2]["test"]
    one = runs[0]
    assert len(one["predicted"]) == 6
    assert 0 <= one["share"] <= 1
    assert len(one["at_random"]) == 4
    assert one["share_whole"] <= 1
    plain = prunability(seed=0, **common)
    assert "predicted" not in plain


def test_type_one_noise_is_invisible_on_centred_inputs(shared):
    """ECG5000: every series sums to zero, so a number added to a whole row changes nothing but its
    norm.
    """
    folder = str(shared / "data")
    common = {"data": "ecg5000", "folder": folder, "width": 300, "steps": 100, "seed": 0}
    told = load_data("ecg5000", folder)
    loud = prunability(noise={"kind": "rows", "alpha": 1.75, "sigma": 0.03}, **common)
    from moduli.pytorch import perceptron
    from moduli.training.pruning import prunable_share, visible

    start = perceptron(140, 300, 2, seed=0)[0].weight.detach().double().numpy()
    assert loud["share_whole"] > 2 * loud["share"]
    assert loud["share"] == pytest.approx(
        prunable_share(visible(start, told.x.astype(float))), abs=0.02
    )


def test_measure_keeps_the_best_units():
    told = load_data("digits")
    from moduli.pytorch import fit, perceptron

    net = fit(perceptron(64, 60, 10, seed=0), told.x, told.y, steps=300, lr=0.1).network
    found = measure(net, told.x.astype(float), told.x_test.astype(float), told.y_test)
    assert found["test"] > 0.9
    assert found["at_norm"][0] > found["at_norm"][3]
    assert found["parameters_kept"] < 1
    assert found["change"] > 0


def test_configurations_and_their_tables(tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(
        'data = "digits"\nwidth = 40\nsteps = 30\nseeds = 3\n[[runs]]\nname = "none"\n[[runs]]\nname = "isotropic"\n'
        'noise = { kind = "isotropic", alpha = 1.75, sigma = 0.02 }\n[[runs]]\nname = "too loud"\n'
        'noise = { kind = "iid", alpha = 1.2, sigma = 1e30 }\nlr = 1.0\n'
    )
    jobs = read_config(config)
    assert [name for name, _ in jobs] == ["none"] * 3 + ["isotropic"] * 3 + ["too loud"] * 3
    done = run([job for _, job in jobs], store=tmp_path / "store")
    table = Table.of([name for name, _ in jobs], done)
    assert len(table.failures) == 3
    assert "diverged" in table.failures[0]
    lines = table.lines()
    assert [line["name"] for line in lines] == ["none", "isotropic"]
    shares = [one["share"] for one in table.results[1]]
    assert lines[1]["share"] == np.median(shares)
    assert lines[0]["after_worst"] == min(one["after"] for one in table.results[0])
    left, right = table.plot()
    assert [t.get_text() for t in left.get_yticklabels()] == ["none", "isotropic"]
    assert right.get_xlabel() == "test accuracy"
    console = Console(record=True, width=160)
    console.print(table)
    text = console.export_text()
    assert "noise alone" in text
    assert "diverged" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = [", "small.toml"), ("seeds = 3", r"\[\[runs\]\]"), ("[[runs]]\nname='a'\nwidth=3", "data or width missing"),
        ("data='digits'\nwidth=3\n[[runs]]\nname='a'\ncolour=3", "unknown colour"),
        ("seeds=0\n[[runs]]\nname='a'", "seeds = N"), ("seeds=true\n[[runs]]\nname='a'", "seeds = N"),
        ("seeds=999999999\n[[runs]]\nname='a'", "seeds = N"), ('seeds="\\u0000"\n[[runs]]\nname="a"', r"not \?"),
        ("runs = [1, 2]", r"\[\[runs\]\]"), ("a = " + "[" * 5000, "small.toml"), ("a = " + "9" * 5000, "small.toml"),
        ('[[runs]]\nname="\\u001b[31m"\nwidth=3\ndata="digits"', "name, data or width missing"),
        *((f"data='digits'\nwidth=3\n[[runs]]\nname='a'\n{line}", "is needed") for line in (
            "width=true", "width='x'", "width=0", "width=2147483648", "steps=1.5", "lr='x'", "lr=nan", "lr=inf", "bias=1",
            "noise=3", "noise={alpha='x'}", "noise={alpha=[1]}", "noise={kind=3}", "noise={annealed=3}", "penalty={l1={}}",
            "data=3", "clip=1979-05-27", "lr=" + "9" * 400,
        )),
    ],
)  # fmt: skip
def test_configurations_that_are_none(tmp_path, text, said):
    (tmp_path / "small.toml").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_config(tmp_path / "small.toml")
    assert str(caught.value).isprintable()


def test_stored_results_that_lack_something_are_named():
    good = {key: 0.5 for key in ("test", "share", "share_whole", "largest", "after", "change")} | {
        "steps": 3
    }
    good["measure"] = "accuracy"
    good |= {f"at_{name}": [0.5] * 4 for name in ("norm", "contribution", "random")} | {
        "predicted": [0.1] * 6
    }
    assert Table.of(["a"], [{"result": good}]).lines()[0]["test"] == 0.5
    bad = [
        {**good, key: value} for key in good for value in (None, "x", [], True, 10**400, [None] * 4)
    ]
    for one in [*bad, {k: v for k, v in good.items() if k != "at_norm"}, None, [], 3]:
        with pytest.raises(ValueError, match="a: a stored result lacks what was measured"):
            Table.of(["a"], [{"result": one}])


def test_errors_are_worst_where_they_are_largest(tmp_path):
    """A sweep over values, not classes: its words, its worst seed."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    y = np.stack([x[:, 0] * x[:, 1], 3 * x[:, 2]], axis=1)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_test=x[:90], y_test=y[:90])
    (tmp_path / "values.toml").write_text(
        f'data = "{tmp_path / "two.npz"}"\nwidth = 20\nsteps = 60\nseeds = 3\n[[runs]]\nname = "none"\n'
    )
    jobs = read_config(tmp_path / "values.toml")
    done = run([job for _, job in jobs], store=tmp_path / "store")
    table = Table.of([name for name, _ in jobs], done)
    (line,), ones = table.lines(), table.results[0]
    assert table.measure == line["measure"] == "mean square error"
    for key in ("test", "after"):
        assert line[f"{key}_worst"] == max(one[key] for one in ones)
    for k in range(4):
        assert line["at_norm_worst"][k] == max(one["at_norm"][k] for one in ones)
    assert table.plot()[1].get_xlabel() == "test mean square error"
    console = Console(record=True, width=160)
    console.print(table)
    text = console.export_text()
    assert "mean square error on the test data" in text
    assert "accuracy" not in text


def test_mean_square_errors_of_training_and_test_are_the_same_mean():
    from moduli.pytorch import fit, perceptron

    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 3)).astype(np.float32)
    y = rng.standard_normal((100, 4))
    found = fit(perceptron(3, 8, 4), x, y, steps=5)
    scores = measure(found.network, x.astype(np.float64), x.astype(np.float64), y)
    assert scores["test"] == pytest.approx(found.train, rel=1e-5)


def test_tables_of_text_and_numbers(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.6f},{'cat' if a > 0 else 'dog'},{b:.6f},{3 * b:.6f}"
        for a, b in rng.standard_normal((40, 2))
    ]
    file = tmp_path / "pets.csv"
    file.write_text("\n".join(["size,kind,weight,price", *rows]) + "\n")
    with pytest.raises(UnsupportedModel, match=r"row 1, column 'kind' holds '(cat|dog)'"):
        load_data(str(file))
    (tmp_path / "two.csv").write_text(
        "\n".join(["a;kind;b", *(r.replace(",", ";").rpartition(";")[0] for r in rows)])
    )
    told = load_data(str(tmp_path / "two.csv"), column="kind")
    assert told.x.shape == (30, 2)
    assert told.x_test.shape == (10, 2)
    assert told.y.dtype == np.int64
    assert all((told.y == 0) == (told.x[:, 0] > 0))  # "cat" comes first
    every = np.concatenate([told.x, told.x_test])[:, 0]
    assert sorted(every) == sorted(np.float32(r.partition(",")[0]) for r in rows)
    numbers = np.column_stack([rng.standard_normal((20, 2)), np.arange(20) % 3])
    np.save(tmp_path / "n.npy", numbers)
    path = str(tmp_path / "n.npy")
    assert load_data(path).y.dtype == np.int64
    assert load_data(path, values=True).y.dtype == np.float64
    assert load_data(path, column="1").y.dtype == np.float64
    for bad, said in (
        ("", "no rows"), ("a,b\n", "no rows"), ("a,a\n1,2", "two columns are named"), ("a,b\n1", "row 1 has 1 cells"),
        ("1,2\n3,nan", "holds 'nan'"), ("1,2", "two rows are needed"), ("1\n2\n3", "at least one input"),
        ("1e39,1\n2,1\n3,4", "beyond float32"), ("1,2.5\n3,n/a\n4,1.5", "row 2, column '2' holds 'n/a'"),
        ("?,1.5\n2,1\n3,4", r"first line holds '\?' above a number"),
    ):  # fmt: skip
        file.write_text(bad)
        with pytest.raises(UnsupportedModel, match=said):
            load_data(str(file))
    with pytest.raises(ValueError, match=r"a column is chosen in a \.csv or \.npy file"):
        load_data("digits", column="x")
    file.write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n")  # no header
    assert read_table(file).names == ("1", "2", "3")
    assert read_table(file).targets(None).tolist() == [0, 0, 1]
    file.write_text(",0,1\n0,1.5,2\n")  # of data frames
    assert read_table(file).names == ("", "0", "1")
    file.write_text("\n  \na;b\n\n1;2\n \n3;4\n\n")  # empty lines are none, the first ones, too
    assert read_table(file).names == ("a", "b")
    assert read_table(file).numbers([0, 1]).tolist() == [[1, 2], [3, 4]]


TABLES = {
    "x_train": np.ones((4, 2)),
    "y_train": np.arange(4),
    "x_test": np.ones((2, 2)),
    "y_test": np.arange(2),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": np.array("text")}, "finite numbers are needed"), ({"x_train": np.full((4, 2), np.nan)},
        "finite numbers"),
        ({"y_test": np.float64(1)}, "finite numbers"), ({"x_test": np.ones((0, 2))}, "finite numbers"),
        ({"x_train": np.full((4, 2), 1e39)}, "beyond float32"), ({"y_train": np.arange(4) - 1}, "classes are 0 to"),
        ({"y_train": np.arange(4) * 10**9}, "classes are 0 to"), ({"x_test": np.ones((2, 3))}, "do not fit together"),
    ],
)  # fmt: skip
def test_training_data_that_are_none(tmp_path, changes, said):
    np.savez(tmp_path / "data.npz", **(TABLES | changes))
    with pytest.raises(UnsupportedModel, match=said):
        load_data(str(tmp_path / "data.npz"))


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\3\4" + bytes(40), b"\x93NUMPY\1\0"])
def test_training_data_that_are_no_archive(tmp_path, data):
    (tmp_path / "data.npz").write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"data\.npz: damaged or no \.npz archive"):
        load_data(str(tmp_path / "data.npz"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda p: p.stem
)
def test_committed_configurations_are_read(path):
    jobs = read_config(path, "folder")
    assert len({job.key for _, job in jobs}) == len(jobs)
