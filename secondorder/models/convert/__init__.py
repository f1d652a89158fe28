"""Residual networks made Momentum ResNets and back, in place, weights untouched.

    x ← block(x)        residual: block(x) = x + f(x)
    v ← γ v + (1−γ) (block(x) − x),   x ← x + v

The force is the difference f = block(x) − x, so a block may be anything that keeps the
shape of its state, normalised before or after, and what it is called with (masks,
positions) reaches it as before.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, section 3 and appendix E.
"""

# stack.py needs the compiler, which takes a second to import: where one converts.

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from ...gradients import Gradient


def to_momentum(
    model: nn.Module,
    path: str | Sequence[str],
    gamma: Any = 0.9,
    gradient: str | Gradient | Callable[..., Any] = "reversible",
    rule: str = "momentum",
    memory: int | str | None = None,
    compile: bool | dict[str, Any] = False,
) -> nn.Module:
    """Turn stacks of residual blocks inside a model into Momentum ResNets, in place.

    The blocks, their weights and the keys of the ``state_dict`` stay what they are:
    optimisers, checkpoints and ``save_pretrained`` go on working.  ``so.to_residual``
    is the way back.

    Parameters
    ----------
    model : nn.Module
        It is changed and returned.
    path : str or list of str
        Where the ``nn.ModuleList`` or ``nn.Sequential`` of blocks is, such as
        ``"layer1"``, ``"encoder.layers"`` (``nn.Transformer``), ``"transformer.h"``
        (GPT-2), ``"encoder.layer"`` (BERT), ``"model.layers"`` (Llama, Qwen);
        ``""`` is the model itself.  Blocks that change the shape of the state (the
        first of a ResNet's layers) stay as they are, and the velocity starts from 0
        after them.
    gamma, gradient, rule, memory
        As in ``MomentumNet``, for each stack.  γ ≠ 0 changes a pretrained function;
        ``"unnormalised"`` with γ = −1/2 (v ← −v/2 + f) and ``"momentum"`` with γ = 1/2
        cost the same memory, and which is nearer depends on the network and the task:
        of a MiniLM, embeddings keep a cosine of 0.89 against 0.75, but a contrastive
        loss of 1.62 becomes 1.83 against 1.71 (``benchmarks/fine_tune.py`` measures
        it).  ``model.get_submodule(path).set_gamma(...)`` changes γ in training.
    compile : bool or dict, default False
        Compile each block (``torch.compile``, whose options a dict gives).

    Returns
    -------
    nn.Module
        ``model``, or the converted stack for the path ``""``.

    Raises
    ------
    ValueError
        For a path that leads to no stack of blocks; the message lists those there are.
        Later, in a call, where a stack cannot be differentiated in this way.

    Notes
    -----
    With ``gradient="reversible"`` the blocks run when the last of them is called, so
    the model must not touch the state between two of them; with ``"backprop"``, and
    without gradients, each runs at once.  Tuples may hold the state and None, or what
    the first block computes for all (the position bias of T5).  Half precision: f is
    the difference of two rounded states, good to 1e-2 in bfloat16; a
    ``so.MomentumNet`` of the attention and MLP branches themselves, each
    f(x) = branch(norm(x)), is good to 2e-3, for networks that normalise first.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, 4)
    >>> _ = so.to_momentum(model, "layers", gamma=0.9)
    >>> model(torch.zeros(2, 5, 16)).sum().backward()
    >>> _ = so.to_residual(model)

    References
    ----------
    Sander et al., ICML 2021, section 3.
    """
    from .stack import MomentumList, MomentumSequential

    paths: list[Any] = [*path] if isinstance(path, (list, tuple)) else [path]
    found = {p: container_at(model, p) for p in paths}
    stacks = {}
    for container in found.values():
        kind: Any = (
            MomentumSequential if isinstance(container, nn.Sequential) else MomentumList
        )
        stacks[id(container)] = kind(container, gamma, gradient, rule, memory)
    for stack in stacks.values():
        if compile:
            options = compile if isinstance(compile, dict) else {}
            for block in stack.blocks:
                block.compile(**options)
            stack.compiled = True
    return replaced(model, stacks)


def to_residual(model: nn.Module) -> nn.Module:
    """Turn all Momentum ResNets that ``to_momentum`` made back into what they were.

    Parameters
    ----------
    model : nn.Module
        It is changed and returned; weights keep their present values.

    Returns
    -------
    nn.Module
        ``model``, or the container for a converted stack itself.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> blocks = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    >>> stack = so.to_momentum(blocks, "")  # the model itself is the stack
    >>> type(so.to_residual(stack)).__name__
    'Sequential'
    """
    from .stack import Stack

    stacks = [m for m in model.modules() if isinstance(m, Stack)]
    if not stacks:
        raise ValueError(
            "`model` holds nothing that so.to_momentum has converted; it is residual "
            "already, or a so.MomentumNet, whose blocks are f without the skip"
        )
    for stack in stacks:
        if stack.compiled:
            for block in stack.blocks:
                block._compiled_call_impl = None
    return replaced(model, {id(stack): stack.residual() for stack in stacks})


def replaced(model: nn.Module, changes: dict[int, nn.Module]) -> nn.Module:
    """A model with modules replaced, wherever they are registered."""
    for module in [*model.modules()]:
        for name, child in module._modules.items():
            if id(child) in changes:
                module._modules[name] = changes[id(child)]
    return changes.get(id(model), model)


def container_at(model: nn.Module, path: str) -> nn.Module:
    """The container of blocks at a path, or raise and say which there are."""
    from .stack import Stack

    if not isinstance(path, str):
        raise TypeError(
            f"`path` must be a str or a list of str, got {type(path).__name__}"
        )
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"`path` {path!r} leads nowhere; {stacks_in(model)}") from None
    if isinstance(module, Stack):
        raise ValueError(
            f"`path` {path!r} is converted already; .set_gamma(...) there changes γ, "
            "so.to_residual(model) goes back"
        )
    own = type(module).forward
    inherited = {nn.Sequential.forward, nn.ModuleList.forward}
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or own not in inherited:
        raise ValueError(
            f"`path` {path!r} leads to a {type(module).__name__}, but must lead to an "
            f"nn.ModuleList or nn.Sequential of residual blocks; {stacks_in(model)}"
        )
    if len(module) == 0:
        raise ValueError(f"`path` {path!r} leads to no blocks: it is empty")
    return module


def stacks_in(model: nn.Module) -> str:
    """The paths of a model that look like stacks of blocks, in a sentence."""
    paths = [repr(path) for path in like_stacks(model)]
    if paths:
        return f"what looks like stacks of blocks is at {', '.join(paths)}"
    children = [name for name, _ in model.named_children()]
    return f"nothing looks like a stack of blocks (the model's parts are {children})"


def like_stacks(model: nn.Module) -> Iterator[str]:
    """Paths of containers of two or more modules of the same class."""
    for path, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            classes = [type(child) for child in module.children()]
            if len(classes) > 1 and len(set(classes)) < len(classes):
                yield path
