"""Reversible networks under DDP and FSDP2: two processes, one gradient."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import gradients, mlp, noise
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import secondorder as so


def network():
    return so.MomentumNet([mlp(seed=n) for n in range(5)], 0.9)


def sharded(net, what):
    """FSDP2 on two processes."""
    mesh = init_device_mesh("cpu", (2,))
    for block in net.blocks if what == "blocks" else ():
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def work(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # no name of this machine is looked up
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
        timeout=timedelta(minutes=2),
    )  # fmt: skip
    net = DistributedDataParallel(network())
    net(noise(8, 4).chunk(2)[rank]).sum().backward()
    torch.save([p.grad for p in net.parameters()], f"{folder}/{rank}.pt")
    whole = sharded(network(), "whole")
    whole(noise(8, 4)).sum().backward()
    torch.save([p.grad.full_tensor() for p in whole.parameters()], f"{folder}/w{rank}")
    try:
        sharded(network(), "blocks")(noise(8, 4))
    except RuntimeError as error:
        Path(f"{folder}/said{rank}").write_text(str(error))
    dist.destroy_process_group()


def test_two_processes_give_the_gradient_of_one_or_say_why_not():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder,), nprocs=2)
        one, two = (torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1))
        whole_shards = torch.load(Path(folder) / "w0")
        said = (Path(folder) / "said0").read_text()
    expected = gradients(network(), noise(8, 4))[1:]
    for a, b, whole in zip(one, two, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(2 * a, whole, rtol=1e-5, atol=1e-5)
    # FSDP averages over processes that saw the same batch.
    for a, whole in zip(whole_shards, expected, strict=True):
        torch.testing.assert_close(a, whole, rtol=1e-5, atol=1e-5)
    assert "fully_shard on the whole network only" in said
