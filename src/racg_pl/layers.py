"""Relations inside each graph. A layer that passes messages is torch-geometric's: `forward` over any edge_index defines it, `dense`
evaluates the same parameters on whole batches, where the graphs are dense, at a quarter of the time and a tenth of the memory.

Letters: D node width, M message width, H heads, N nodes, B items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from racg_pl.geometry import GeometryEdges
from racg_pl.graphs import has_role

FIRST, SECOND = (
    ("agent", "figure"),
    ("patient", "recipient", "ground"),
)  # participants of a verb or an adposition, in this order


def masked_softmax(logits: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the entries where mask is True; all zeros where none is. logits and mask broadcast together."""
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(dim) * mask.any(dim, keepdim=True)


class LabelEdges(nn.Module):
    """Edges of a parse: a bias a head and a vector for each type. edges int64 [...] → bias [...,H], content [...,width]."""

    def __init__(self, types: int, heads: int, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.bias, self.content = nn.Embedding(types, heads), nn.Embedding(types, width)

    def forward(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        return self.bias(edges), self.content(edges)


class RelationLayer(MessagePassing):
    r"""Intramodal aggregation along typed, weighted edges (equation (2) of model.py), one class for both graphs.

    .. math::
        x_i \leftarrow x_i + O \sum_j \gamma_{ij} (U \bar x_j + V c(e_{ij})), \qquad
        \gamma_{ij} = \mathrm{softmax}_j\big((Q \bar x_i) \cdot (K \bar x_j) / \sqrt d + b(e_{ij})\big), \quad \bar x = \mathrm{norm}(x)

    for each of H heads of width d = M / H; the softmax runs over the edges into i. V c(e) lets a message say not only who speaks but
    also from where.

    Args:
        dim: D.  width: M, of what is said in all, between D-wide nodes.  heads: H.
        edge_encoder: maps what describes an edge to (b [...,H], c [...,width]); None where edges are all alike.
        dropout: on the message.  start: O begins at this share of the usual width; near 0, nodes are themselves first and listen later.
    Shapes: forward: x [N,D], edge_index [2,E], edges [E,...] → [N,D]. dense: x [B,N,D], linked bool [B,N,N], edges [B,N,N,...] →
        [B,N,D]. A node with no edge into it passes unchanged.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        heads: int,
        edge_encoder: GeometryEdges | LabelEdges | None = None,
        dropout: float = 0.0,
        start: float = 1.0,
    ) -> None:
        super().__init__(aggr="add", node_dim=0)
        if width % heads:
            raise ValueError(f"RelationLayer: expected a width that its heads divide, got width={width} and heads={heads}")
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query, self.key = nn.Linear(dim, width, bias=False), nn.Linear(dim, width, bias=False)
        self.value, self.out = nn.Linear(dim, width, bias=False), nn.Linear(width, dim, bias=False)
        self.edge_encoder = edge_encoder
        self.edge_value = None if edge_encoder is None else nn.Parameter(torch.empty(heads, edge_encoder.width, width // heads))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.out.weight.mul_(start)
        if self.edge_value is not None:
            nn.init.normal_(self.edge_value, std=self.edge_value.shape[1] ** -0.5)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (scaled), keys and values, each [...,H,M/H]."""
        x = self.norm(x)
        query, key, value = (part(x).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
        return query * query.shape[-1] ** -0.5, key, value

    def forward(self, x: Tensor, edge_index: Tensor, edges: Tensor | None = None) -> Tensor:
        query, key, value = self.project(x)
        bias = query.new_zeros(edge_index.shape[1], self.heads)
        spoken = query.new_zeros(edge_index.shape[1], 1, 1)
        if self.edge_encoder is not None:
            bias, content = self.edge_encoder(edges)
            spoken = torch.einsum("ec,hcd->ehd", content, self.edge_value)
        message = self.propagate(edge_index, query=query, key=key, value=value, bias=bias, spoken=spoken, size=(len(x), len(x)))
        return x + self.dropout(self.out(message.flatten(1)))

    def message(
        self, query_i: Tensor, key_j: Tensor, value_j: Tensor, bias: Tensor, spoken: Tensor, index: Tensor, size_i: int | None
    ) -> Tensor:
        gamma = softmax((query_i * key_j).sum(-1) + bias, index, num_nodes=size_i)
        return gamma[..., None] * (value_j + spoken)

    def dense(self, x: Tensor, linked: Tensor, edges: Tensor | None = None) -> Tensor:
        flat, real = x.flatten(0, 1), torch.empty(0, dtype=torch.int64)
        whole = x.device.type != "cpu"  # with padding: to know where it is, a device has to be waited for
        if not whole:  # products over nodes, half of which may be padding, are most of the work
            real = (linked.any(-1) | linked.any(-2)).flatten().nonzero()[:, 0]
            whole = len(real) == len(flat)
        query, key, value = self.project(flat if whole else flat.index_select(0, real))
        if not whole:
            query, key, value = (
                part.new_zeros(len(flat), *part.shape[1:]).index_copy(0, real, part) for part in (query, key, value)
            )
        query, key, value = (part.unflatten(0, x.shape[:2]).transpose(1, 2) for part in (query, key, value))
        message = self.attend(query, key, value, linked, edges).transpose(1, 2).flatten(2).flatten(0, 1)
        message = self.dropout(self.out(message if whole else message.index_select(0, real)))
        return (flat + message if whole else flat.index_add(0, real, message.to(flat.dtype))).view_as(x)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, linked: Tensor, edges: Tensor | None) -> Tensor:
        """Messages [B,H,N,d] from queries, keys and values [B,H,N,d]."""
        logits = query @ key.transpose(-1, -2)
        if self.edge_encoder is None:
            gamma = masked_softmax(logits, linked[:, None])
            return gamma @ value
        bias, content = self.edge_encoder(edges)
        gamma = masked_softmax(logits + bias.permute(0, 3, 1, 2), linked[:, None])
        heard = gamma.transpose(1, 2) @ content  # [B,N,H,width]: sums of contents come before V, so that no edge is D wide
        return gamma @ value + torch.einsum("bnhc,hcd->bhnd", heard, self.edge_value)


class WordRelations(nn.Module):
    r"""What a caption says of how v lies, or what w does to v, in Q numbers: verbs and adpositions p link their participants.

    .. math:: T_{wv} = \sum_p [w \text{ is agent or figure of } p]\, [v \text{ is patient, recipient or ground of } p]\, \tanh(C x_p)

    Args:
        dim: D.  channels: Q.
    Shapes: x [C,W,D], types int [C,W,W] as of graphs.semantic_relations → T [C,Q,W,W].
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.said = nn.Linear(dim, channels)

    def forward(self, x: Tensor, types: Tensor) -> Tensor:
        first, second = (has_role(types, names).to(x.dtype) for names in (FIRST, SECOND))
        return torch.einsum("cpw,cpq,cpv->cqwv", first, self.said(x).tanh(), second)
