"""Image classification by a ResNet, a Momentum ResNet and a RevNet of one size.

    python benchmarks/train_images.py DATA [--net momentum] [--gamma 0.9] [--depth 8]
                                      [--epochs 30] [--batch 128] [--out FILE]
    torchrun --nproc-per-node 4 benchmarks/train_images.py DATA …

DATA is the folder of CIFAR-10 or CIFAR-100 (the python version, unpacked), or one with
``train/CLASS/*.png`` and ``val/CLASS/*.png`` (or jpg), such as ImageNet's.  Three
stages of ``--depth`` residual blocks each; what changes the resolution between them is
the same for all networks.  After each epoch a line of results goes to ``--out``, beside
a checkpoint, from which a run that was interrupted goes on.  With ``torchrun`` every
process takes its share of each batch.
"""

import argparse
import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import secondorder as so

# -- data ------------------------------------------------------------------------------


class Cifar(Dataset):
    """CIFAR-10 or CIFAR-100 from its python files."""

    def __init__(self, folder, train):
        hundred = (folder / "train").is_file()
        names = ["train"] if hundred else [f"data_batch_{n}" for n in range(1, 6)]
        names = names if train else ["test" if hundred else "test_batch"]
        parts = [pickle.loads((folder / n).read_bytes(), encoding="latin1")
                 for n in names]  # fmt: skip
        self.images = np.concatenate([p["data"] for p in parts]).reshape(-1, 3, 32, 32)
        key = "fine_labels" if hundred else "labels"
        self.labels = [label for p in parts for label in p[key]]
        self.classes, self.train = 100 if hundred else 10, train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, n):
        image = torch.from_numpy(self.images[n]).float() / 255
        return augmented(image, 4) if self.train else image, self.labels[n]


class Folder(Dataset):
    """Images in one folder for each class."""

    def __init__(self, folder, train, size):
        folder = folder / ("train" if train else "val")
        names = sorted(p.name for p in folder.iterdir() if p.is_dir())
        kinds = {".png", ".jpg", ".jpeg"}
        self.files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in kinds
        ]
        self.classes, self.train, self.size = len(names), train, size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, n):
        path, label = self.files[n]
        with Image.open(path) as image:
            image = image.convert("RGB")
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 255
        return augmented(pixels, self.size // 8) if self.train else pixels, label


def augmented(image, margin):
    """A random shift by up to ``margin`` pixels, and mirrored half of the time."""
    size = image.shape[-1]
    wide = nn.functional.pad(image[None], [margin] * 4, mode="reflect")[0]
    top, left = torch.randint(2 * margin + 1, (2,)).tolist()
    image = wide[:, top : top + size, left : left + size]
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def dataset(folder, train, size):
    if (folder / "data_batch_1").exists() or (folder / "train").is_file():
        return Cifar(folder, train)
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise SystemExit(f"{folder} holds neither CIFAR's files nor train/ and val/")
    return Folder(folder, train, size)


# -- networks --------------------------------------------------------------------------


def block(width):
    """What a residual layer adds: norm, activation, convolution, twice."""
    return nn.Sequential(
        nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
    )  # fmt: skip


def stage(args, width):
    """The residual layers at one resolution."""
    if args.net == "revnet":  # two half-wide blocks have half the weights of a whole
        blocks = [block(width // 2) for _ in range(4 * args.depth)]
        return so.related.RevNet(blocks, dim=1)
    blocks = [block(width) for _ in range(args.depth)]
    if args.net == "resnet":
        return so.related.ResNet(blocks)
    return so.MomentumNet(blocks, args.gamma)


def network(args, classes):
    widths = [args.width, 2 * args.width, 4 * args.width]
    layers = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for n, width in enumerate(widths):
        layers.append(stage(args, width))
        if n < 2:
            layers.append(nn.Conv2d(width, widths[n + 1], 3, stride=2, padding=1))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers, *head)


# -- training --------------------------------------------------------------------------


def accuracy(model, loader, device):
    """Share of images that are told right, over all processes."""
    model.eval()
    right = torch.zeros(2, device=device)
    with torch.no_grad():
        for image, label in loader:
            found = model(image.to(device)).argmax(1)
            right += torch.tensor([(found == label.to(device)).sum(), len(label)],
                                  device=device)  # fmt: skip
    if dist.is_initialized():
        dist.all_reduce(right)
    return (right[0] / right[1]).item()


def epoch_of(model, loader, optimiser, schedule, device):
    """One pass over the training images; return the mean loss."""
    model.train()
    total = 0.0
    for image, label in loader:
        loss = cross_entropy(model(image.to(device)), label.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.item()
    return total / max(1, len(loader))


def loaders(args, processes, rank):
    """Training and validation images, each process its share."""
    found = []
    for train in (True, False):
        data = dataset(args.data, train, args.size)
        sampler = DistributedSampler(
            data, processes, rank, shuffle=train, seed=args.seed
        )
        found.append(
            DataLoader(data, args.batch // processes, sampler=sampler,
                       num_workers=args.workers, drop_last=train)
        )  # fmt: skip
    return found


def parser():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("data", type=Path)
    text.add_argument(
        "--net", choices=["resnet", "momentum", "revnet"], default="momentum"
    )
    text.add_argument("--gamma", type=float, default=0.9)
    text.add_argument("--depth", type=int, default=8, help="blocks per stage")
    text.add_argument("--width", type=int, default=32)
    text.add_argument("--size", type=int, default=64, help="of images in folders")
    text.add_argument("--epochs", type=int, default=30)
    text.add_argument("--batch", type=int, default=128, help="of all processes")
    text.add_argument("--lr", type=float, default=1e-3)
    text.add_argument("--seed", type=int, default=0)
    text.add_argument("--workers", type=int, default=0)
    text.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    text.add_argument("--out", type=Path, default=Path("train_images.jsonl"))
    return text


def main(argv=None):
    args = parser().parse_args(argv)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    device = torch.device(args.device)
    if processes > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(args.seed)
    train, test = loaders(args, processes, rank)
    if not len(train):
        raise SystemExit("fewer training images than a batch; use a smaller --batch")
    plain = model = network(args, train.dataset.classes).to(device)
    if processes > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    steps = args.epochs * len(train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, steps)
    saved, begin = args.out.with_suffix(".pt"), 0
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=False)
        begin = state["epoch"]
        plain.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    count = sum(p.numel() for p in plain.parameters())
    for epoch in range(begin, args.epochs):
        torch.manual_seed(args.seed + 1000 * (epoch + 1) + rank)  # of the augmentation
        train.sampler.set_epoch(epoch)
        start = time.perf_counter()
        loss = epoch_of(model, train, optimiser, schedule, device)
        seconds = time.perf_counter() - start
        found = accuracy(model, test, device)
        row = {"net": args.net, "parameters": count, "epoch": epoch + 1, "loss": loss,
               "accuracy": found, "seconds": seconds}  # fmt: skip
        if device.type == "cuda":
            row["MiB"] = torch.cuda.max_memory_allocated() / 2**20
        if rank == 0:
            print(f"{args.net}: epoch {epoch + 1} of {args.epochs}, loss {loss:.4f}, "
                  f"accuracy {found:.4f}, {seconds:.1f} s", flush=True)  # fmt: skip
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            state = {"epoch": epoch + 1, "model": plain.state_dict(),
                     "optimiser": optimiser.state_dict(),
                     "schedule": schedule.state_dict()}  # fmt: skip
            torch.save(state, saved)
    if processes > 1:
        dist.barrier()  # nobody leaves while another still reads
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
