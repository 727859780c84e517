"""A graph per modality, equations (1) and (2) of model.py: nodes, the edges between them, and what they hear of one another.

Letters: B images, C captions, R regions, W words, N nodes of either kind, D node width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl.geometry import GeometryEdges
from racg_pl.graphs import RELATIONS, Regions, Sentences, box_geometry, chain_relations, region_adjacency, to_edges
from racg_pl.layers import LabelEdges, RelationLayer
from racg_pl.nodes import BIGRU, NodeEncoder
from racg_pl.pooling import GeneralizedPooling


class GraphEncoder(NodeEncoder):
    """Nodes of (1) with relation layers of (2) over them, for images and for captions.

    Args: see RACG.
    """

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int,
        dim: int,
        word_dim: int,
        word_std: float,
        dropout: float,
        word_dropout: float,
        region_dropout: float,
        relation_dim: int,
        relation_heads: int,
        relation_start: float,
        depth: int,
        neighbours: int | None,
        semantic_graph: bool,
        intramodal: bool,
        text_encoder: str = BIGRU,
        bert_config: str = "",
    ) -> None:
        text = (text_encoder, bert_config)
        super().__init__(
            feature_dim, vocabulary, objects, dim, word_dim, word_std, dropout, word_dropout, region_dropout, *text
        )
        self.neighbours, self.semantic_graph = neighbours, semantic_graph
        self.image_relations, self.text_relations = nn.ModuleList(), nn.ModuleList()
        for _ in range(depth if intramodal else 0):
            geometry = GeometryEdges(relation_heads) if semantic_graph else None
            arcs = LabelEdges(RELATIONS, relation_heads) if semantic_graph else None
            self.image_relations.append(RelationLayer(dim, relation_dim, relation_heads, geometry, dropout, relation_start))
            self.text_relations.append(RelationLayer(dim, relation_dim, relation_heads, arcs, dropout, relation_start))

    def image_edges(self, images: Regions) -> tuple[Tensor, Tensor | None]:
        """Links [B,R,R] and their geometry [B,R,R,GEOMETRY], or None where the graph is untyped."""
        if not self.semantic_graph:
            return region_adjacency(images.boxes, images.mask), None
        return region_adjacency(images.boxes, images.mask, self.neighbours), box_geometry(images.boxes)

    def text_edges(self, texts: Sentences) -> tuple[Tensor, Tensor | None]:
        """Links [C,W,W] and their types [C,W,W], or None where the graph is untyped."""
        if not self.semantic_graph:
            return chain_relations(texts.mask) >= 0, None
        return texts.relations >= 0, texts.relations.clamp(min=0).int()

    def relate(self, x: Tensor, linked: Tensor, edges: Tensor | None, layers: nn.ModuleList) -> Tensor:
        """The nodes of (2), densely: [B,N,D]."""
        for layer in layers:
            assert isinstance(layer, RelationLayer)
            x = layer.dense(x, linked, edges)
        return x

    def relate_sparse(self, x: Tensor, linked: Tensor, edges: Tensor | None, layers: nn.ModuleList) -> Tensor:
        """The same as message passing over edge_index, the definition that `relate` is tested against."""
        edge_index = to_edges(linked)
        nodes = x.flatten(0, 1)
        for layer in layers:
            nodes = layer(nodes, edge_index, None if edges is None else edges[linked])
        return nodes.view_as(x)


class GraphEmbedder(GraphEncoder):
    """The pooled embedding of (5) from a graph of its own, whose parameters nothing else shares.

    Args: see RACG.
    """

    def __init__(self, *given: int | float | bool | str | None) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.image_pool, self.text_pool = GeneralizedPooling(), GeneralizedPooling()
        self.reset_parameters()

    def embed_image(self, images: Regions) -> Tensor:
        """Unit length: [B,D]. In training, other regions are hidden than from the graph that is matched."""
        images = self.hide_regions(images)
        x = self.relate(self.dropout(self.image_nodes(images)), *self.image_edges(images), self.image_relations)
        return F.normalize(self.image_pool(x * images.mask[..., None], images.mask), dim=-1)

    def embed_text(self, texts: Sentences) -> Tensor:
        """Unit length: [C,D]."""
        x = self.relate(self.dropout(self.text_nodes(texts)), *self.text_edges(texts), self.text_relations)
        return F.normalize(self.text_pool(x * texts.mask[..., None], texts.mask), dim=-1)
