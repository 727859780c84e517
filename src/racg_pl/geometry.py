r"""Edges between regions: what each says of how one box lies as seen from another, to relation layers and to the score.

Letters: B images, R regions, H heads of a relation layer, Q channels of relations, K hidden units.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from racg_pl import native
from racg_pl.graphs import GEOMETRY


def squashed(geometry: Tensor) -> Tensor:
    """The same [...,GEOMETRY] within −1..1: far regions do not drown the near ones."""
    return torch.cat(((2 * geometry[..., :4]).tanh(), geometry[..., 4:]), -1)


class EdgeNetwork(torch.autograd.Function):
    """What a network of squashed edges [B,E,GEOMETRY] says, and a kernel for each output where there are such, by native/edges.cpp:
    [B,E,O], laid out [B,O,E]; and the squashed edges. Keeps its inputs only; `forward` of the modules below defines it in plain torch.

    Args of apply: edges.  weights: end to end, as edges.cpp has them.  hidden: K.  outputs: O.  kernel: whether there are kernels.
    """

    @staticmethod
    def forward(ctx: Any, edges: Tensor, weights: Tensor, hidden: int, outputs: int, kernel: bool) -> tuple[Tensor, Tensor]:
        given = {"geometry": edges.contiguous(), "weights": weights.contiguous()}
        said, content = edges.new_empty(len(edges), outputs, edges.shape[1]), torch.empty_like(given["geometry"])
        native.edges("edges", given | {"said": said, "content": content}, hidden, kernel)
        ctx.save_for_backward(*given.values())
        ctx.hidden, ctx.kernel = hidden, kernel
        ctx.mark_non_differentiable(content)
        return said.transpose(1, 2), content

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        edges, weights = ctx.saved_tensors
        d_weights = weights.new_zeros(torch.get_num_threads(), len(weights))
        given = {
            "geometry": edges,
            "weights": weights,
            "said": gradients[0].transpose(1, 2).contiguous(),
            "d_weights": d_weights,
        }
        native.edges("edges_backward", given, ctx.hidden, ctx.kernel)
        return None, d_weights.sum(0), None, None, None


def said_by(network: nn.Sequential, edges: Tensor, kernel: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a network of one hidden layer says of edges [...,GEOMETRY], less its kernels [O,4] where given, fused: [...,O]; and the
    squashed edges."""
    first, _, second = network
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    parts = [torch.cat((layer.weight, layer.bias[:, None]), 1) for layer in (first, second)]
    dtype = torch.promote_types(edges.dtype, torch.float32)
    weights = torch.cat([part.flatten() for part in (*parts, *([] if kernel is None else [kernel]))]).to(dtype)
    many, outputs = edges.shape[:-1], second.out_features
    items = edges.flatten(1, -2) if edges.dim() > 3 else edges.reshape(1, many.numel(), GEOMETRY)
    said, content = EdgeNetwork.apply(items.to(dtype), weights, first.out_features, outputs, kernel is not None)
    return said.view(*many, outputs), content.view_as(edges)


def fusible(edges: Tensor) -> bool:
    """Whether the operator takes these edges: it has no gradient of boxes."""
    return native.available(edges) and not edges.requires_grad


class GeometryEdges(nn.Module):
    r"""How much head h of a region listens to a region at offset δ, in units of its own size, and what it hears.

    .. math:: b_h(e) = -\kappa_h \log\big(1 + |\delta - \mu_h|^2 / \sigma_h^2\big) + \mathrm{MLP}_h(e)

    A learned kernel a head, after the Gaussian kernels of MoNet (Monti et al., CVPR 2017, eq. 11) with a heavier tail. The heads begin
    on a ring, one direction each, rather than all alike.

    Args:
        heads: H.  radius, spread: of the ring and of each kernel at the start.
    Shapes: edges [...,GEOMETRY] from graphs.box_geometry → bias [...,H], content [...,GEOMETRY].
    """

    def __init__(self, heads: int, radius: float = 0.5, spread: float = 0.25, hidden: int = 32) -> None:
        super().__init__()
        self.radius, self.spread, self.width = radius, spread, GEOMETRY
        self.centre, self.log_spread = nn.Parameter(torch.empty(heads, 2)), nn.Parameter(torch.empty(heads))
        self.sharpness = nn.Parameter(torch.empty(heads))
        self.mlp = nn.Sequential(nn.Linear(GEOMETRY, hidden), nn.GELU(), nn.Linear(hidden, heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        angle = torch.arange(len(self.centre)) * (2 * math.pi / len(self.centre))
        with torch.no_grad():
            self.centre.copy_(self.radius * torch.stack((angle.cos(), angle.sin()), -1))
        nn.init.constant_(self.log_spread, math.log(self.spread))
        nn.init.constant_(self.sharpness, 2.0)

    def forward(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        if fusible(edges):
            return said_by(self.mlp, edges, torch.cat((self.centre, self.log_spread[:, None], self.sharpness[:, None]), 1))
        dx, dy = edges[..., :1], edges[..., 1:2]
        square = (dx - self.centre[:, 0]).square() + (dy - self.centre[:, 1]).square()
        kernel = -self.sharpness * torch.log1p(square * (-2 * self.log_spread).exp())
        content = squashed(edges)
        return kernel + self.mlp(content), content


class RegionRelations(nn.Module):
    r"""How region s lies as seen from region r, in Q numbers: what a caption's :class:`racg_pl.layers.WordRelations` are compared with.

    .. math:: G_{rs} = \tanh\,\mathrm{MLP}(e_{rs})

    Args:
        channels: Q.
    Shapes: linked bool [B,R,R], edges [B,R,R,GEOMETRY] → G [B,Q,R,R], zero where nothing links.
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(GEOMETRY, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, linked: Tensor, edges: Tensor) -> Tensor:
        said = said_by(self.mlp, edges)[0] if fusible(edges) else self.mlp(squashed(edges))
        return (said.tanh() * linked[..., None]).permute(0, 3, 1, 2)
