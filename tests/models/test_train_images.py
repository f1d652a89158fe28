"""The image benchmark trains on a folder, goes on where it stopped, and shares work."""

import contextlib
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "train_images.py"
SMALL = ["--depth=1", "--width=8", "--batch=8", "--size=8", "--device=cpu"]


@pytest.fixture(scope="module")
def train_images():
    spec = importlib.util.spec_from_file_location("train_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise, and a smooth slope, in images of several shapes."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, many in (("train", 8), ("val", 4)):
        for label in ("noise", "slope"):
            (root / part / label).mkdir(parents=True)
            for n in range(many):
                shape = (8 + n % 3, 10, 3)
                pixels = random.integers(0, 255, shape, np.uint8)
                if label == "slope":
                    pixels[:] = np.linspace(0, 250, shape[0])[:, None, None]
                Image.fromarray(pixels).save(root / part / label / f"{n}.png")
    return root


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("net", ["resnet", "momentum", "revnet"])
def test_each_network_trains(train_images, folder, tmp_path, net):
    out = tmp_path / "run.jsonl"
    argv = [str(folder), "--net", net, *SMALL, "--lr=3e-3", "--out", str(out)]
    assert train_images.main([*argv, "--epochs", "3"]) == 0
    found = rows(out)
    assert [row["epoch"] for row in found] == [1, 2, 3]
    assert found[-1]["loss"] < found[0]["loss"]


def test_an_interrupted_run_goes_on_to_the_same_end(
    train_images, folder, tmp_path, monkeypatch
):
    def argv(name):
        return [str(folder), *SMALL, "--epochs", "2", "--out", str(tmp_path / name)]

    train_images.main(argv("whole.jsonl"))
    epochs, train = [], train_images.epoch_of

    def until_the_second(*args):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(train_images, "epoch_of", until_the_second)
    for stop in (True, False):
        with pytest.raises(KeyboardInterrupt) if stop else contextlib.nullcontext():
            train_images.main(argv("parts.jsonl"))
    whole, parts = (rows(tmp_path / f"{name}.jsonl") for name in ("whole", "parts"))
    assert [row["loss"] for row in whole] == [row["loss"] for row in parts]
    assert len(whole) == 2


def test_cifar_files_are_read(train_images, tmp_path):
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        part = {
            "data": random.integers(0, 255, (4, 3072), np.uint8),
            "labels": [0, 1] * 2,
        }
        (tmp_path / name).write_bytes(pickle.dumps(part))
    data = train_images.dataset(tmp_path, True, 32)
    image, label = data[1]
    assert (len(data), data.classes, label, tuple(image.shape)) == (
        20,
        10,
        1,
        (3, 32, 32),
    )
    assert image.min() >= 0 and image.max() <= 1


def test_a_folder_without_images_is_refused(train_images, tmp_path):
    with pytest.raises(SystemExit, match="neither CIFAR"):
        train_images.main([str(tmp_path)])


def test_processes_share_the_images(train_images, folder):
    args = train_images.parser().parse_args([str(folder), *SMALL])
    shares = [set(train_images.loaders(args, 2, rank)[0].sampler) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 8
    assert not shares[0] & shares[1]
    (images, labels), *_ = train_images.loaders(args, 2, 0)[0]
    assert len(images) == len(labels) == args.batch // 2
