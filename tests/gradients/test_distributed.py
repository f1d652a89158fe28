"""Reversible networks under DistributedDataParallel: two processes, one gradient."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import gradients, mlp, noise
from torch.nn.parallel import DistributedDataParallel

import secondorder as so


def network():
    return so.MomentumNet([mlp(seed=n) for n in range(5)], 0.9)


def work(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # no name of this machine is looked up
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
        timeout=timedelta(minutes=2),
    )  # fmt: skip
    net = DistributedDataParallel(network())
    net(noise(8, 4).chunk(2)[rank]).sum().backward()
    torch.save([p.grad for p in net.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_average_to_the_gradient_of_the_whole_batch():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder,), nprocs=2)
        one, two = (torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1))
    expected = gradients(network(), noise(8, 4))[1:]
    for a, b, whole in zip(one, two, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(2 * a, whole, rtol=1e-5, atol=1e-5)
