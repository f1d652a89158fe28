"""θ over one real eigenvalue, in its Jordan basis.

Below the threshold two equal blocks become one complex block g(J) = A + iB, written
[[A, −B], [B, A]]; at the critical value two nearly equal blocks become one block over
θ*; where Ψ crosses the value, each block becomes a block over the crossing.
"""

import math
from typing import TypeAlias

import numpy as np
import torch

from .criterion import groups, side
from .fold import Fold
from .inverse import commuting_newton
from .jordan import Eigenvalue, jordan_chains
from .propagator import Array, Propagator, RealArray

Part: TypeAlias = tuple[RealArray, Array]  # a basis, and θ in it


def lift_eigenvalue(B: RealArray, e: Eigenvalue, m: Propagator) -> RealArray:
    """Return a real θ with Ψ(θ) = B, for a block B with the one real eigenvalue e."""
    N = B - e.value * np.eye(len(B))
    chains = jordan_chains(N, max(e.noise, np.abs(N).max() * (len(N) == 1)))
    if m.fold and side(e, m) == "at":
        parts = _fold_parts(chains, m.fold, m)
    else:
        parts = _pair_parts(chains, e.value, m)
    X = np.hstack([basis for basis, _ in parts])
    theta, start = np.zeros_like(B), 0
    for _, block in parts:
        stop = start + len(block)
        theta[start:stop, start:stop] = block
        start = stop
    return X @ theta @ np.linalg.inv(X)


def _pair_parts(chains: list[RealArray], value: float, m: Propagator) -> list[Part]:
    """Lift equal chains two by two to conjugate blocks, single ones to real blocks."""
    parts, waiting = [], None
    above = m.inverse(value)  # on the cut, its value from above
    roots = m.real_preimages(value)
    pairing = value < m.principal_threshold and (
        _is_regular(above, m) or not len(roots)
    )
    for chain in chains:
        if not pairing:
            parts.append((chain, _real_block(chain.shape[1], value, m)))
        elif waiting is None:
            waiting = chain
        elif waiting.shape == chain.shape:
            G = _jordan_inverse(chain.shape[1], value, above, m)
            block = np.block([[G.real, -G.imag], [G.imag, G.real]])
            parts.append((np.hstack([waiting, chain]), block))
            waiting = None
        else:  # a longer chain is left over, for a model with real preimages
            parts.append((waiting, _real_block(waiting.shape[1], value, m)))
            waiting = chain
    if waiting is not None:
        parts.append((waiting, _real_block(waiting.shape[1], value, m)))
    return parts


def _is_regular(theta: complex, m: Propagator) -> bool:
    """Return whether Ψ' is far enough from 0 at θ for a Jordan block to be lifted."""
    slope = abs(m.derivative(theta)) * (1 + abs(theta))
    return slope > 1e-2 * abs(m.response(theta))


def _real_block(n: int, value: float, m: Propagator) -> RealArray:
    """Return a real θ over one Jordan block, from a simple real inverse image."""
    if value >= m.principal_threshold:
        root = float(np.real(m.inverse(value)))
        if n == 1 or _is_regular(root, m):
            return _jordan_inverse(n, value, root, m)
    roots = m.real_preimages(value)
    if not len(roots):
        raise ArithmeticError(
            f"`D` has an eigenvalue {value:.6g} whose real preimage float64 does not "
            "resolve: it lies too far out, or on the threshold; increase ε (or γ)"
        )
    regular = [root for root in roots if _is_regular(root, m)]
    if regular:
        root = min(regular, key=abs)
    else:
        root = max(roots, key=lambda root: abs(m.derivative(root)))
    return _jordan_inverse(n, value, float(root), m)


def _jordan_inverse(n: int, value: float, root: complex, m: Propagator) -> Array:
    """Return G with Ψ(G) = J_n(value) and the eigenvalue ``root``."""
    return commuting_newton(m, value * np.eye(n) + np.eye(n, k=1), root)


def _fold_parts(chains: list[RealArray], fold: Fold, m: Propagator) -> list[Part]:
    """Lift groups of chains at the critical value to one Jordan block each.

    J_s over the fold goes to a matrix K with the blocks of the group; in a Jordan basis
    Y of K, the block is Y⁻¹ J_s Y.
    """
    parts, start = [], 0
    sizes = [chain.shape[1] for chain in chains]
    for group in groups(sizes, fold.order):
        count = sum(size > 0 for size in group)
        basis = np.hstack(chains[start : start + count])
        start += count
        n, stretch = sum(group), _stretch(m, fold)
        over = fold.at * np.eye(n) + stretch * np.eye(n, k=1)
        K = m.response(over) - fold.value * np.eye(n)
        K = np.triu(K, fold.order)  # the entries before are 0 up to rounding
        Y = np.hstack(jordan_chains(K, 1e-12 * float(np.linalg.norm(K))))
        parts.append((basis, np.linalg.solve(Y, over @ Y)))
    return parts


def _stretch(m: Propagator, fold: Fold) -> float:
    """Return √(2/Ψ''(θ*)): θ* + stretch N goes to λ + N² + …, of the size of N."""
    if fold.order != 2:
        return 1.0  # (1 + θ)^N
    at = torch.tensor(fold.at, dtype=torch.float64, requires_grad=True)
    (bend,) = torch.autograd.grad(m.derivative(at), at)
    stretch = math.sqrt(max(2 / bend.item(), 0.0)) if bend.item() else 1.0
    return stretch if 0 < stretch < math.inf else 1.0
