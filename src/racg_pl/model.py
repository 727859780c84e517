r"""RACG: relation-aggregated cross-graph learning for fine-grained image-text retrieval.

After Peng, He, Liu, Cheung, Xu, Cui, IEEE TNNLS 35(2):2194-2207, 2024, doi 10.1109/TNNLS.2022.3188569. A reconstruction from the paper's
abstract, which fixes the six parts; the equations are this project's (README lists each choice with its reason).

Letters: B images, C captions, R regions, W words, D node width, M message width, P alignment width, H heads,
N nodes of either kind, F feature width, Q channels of a relation.

    (1)  nodes           v_r = norm(W_f f_r + box(x1,y1,x2,y2,area) + object_r),   w = norm(BiGRU(word vectors)), ways averaged; or BERT
    (2)  intramodal      x_i ← x_i + O Σ_j γ_ij (U x̄_j + V c(e_ij)),   γ_ij = softmax_j(Q x̄_i · K x̄_j / √d + b(e_ij));
                         relations, Q numbers each: G_rs = tanh MLP(e_rs),   T_wv = Σ_p [w –p→ v] tanh(C x_p), of every verb and
                         adposition p between its participants, w first
         image edges     all pairs of regions (or the k nearest), e_ij the relative geometry of two boxes
         text edges      the caption's semantic graph in both directions and self-loops, e_ij the type: roles of verbs and adpositions
                         (agent, patient, figure, ground …), attributes, possession, negation; see semantics.py
    (3)  cross graph     a = A v, b = A' w, each of H heads of unit length;   s_rw = mean_h a_r^h · b_w^h;
                         m_w = Σ_r softmax_r(λ s_rw) a_r,   n_r = Σ_w softmax_w(λ' s_rw) b_w;
         facets          where heads read facets, block h of W_f f_r is made of the h-th group of channels alone, and a_r^h of block h
                         of v_r: see facets.py
    (4)  alignment       z_w[h] = b_w^h · m_w^h,  z_r[h] = a_r^h · n_r^h;   g(z) = u·z + MLP(z)
    (5)  score           S = κ₁ Σ_w π_w g(z_w) + κ₂ Σ_r π_r g'(z_r) + κ₃ cos(pooled image, pooled caption)
                             + κ₄ Σ_wv π_w T_wv · Σ_rs α_wr G_rs α_vs,   α_w· = softmax_r(λ s_rw);
                         pooled: see pooling.py; where embeddings are separate, of graphs by (1) and (2) with parameters of
                         their own, and κ₃'s term and the sum of the others each have a loss of their own
    (6)  reconstruction  matched pairs, related words: the regions that a word attends to, as they are before they hear of others, are
                         decoded to it, by their vectors or by their objects: see reconstruction.py. Words that a training step hides
                         for this, from all of (1)-(6), attend by what their neighbours in the graph say

Each part has a switch, all on by default. Off means:
    semantic_graph   untyped edges: complete (image) or chain (text), without geometry or labels; G and T are uniform over them
    intramodal       nodes pass (2) unchanged; G and T are uniform over the edges
    cross_graph      each node takes its single best match in (3) instead of gathering
    reconstruction   no (6), and no word hidden for it
    multihead        H = 1 in (3) and (4), which reads all channels, and g the identity
    aggregation      no relations and no pooled cosine in (5): neither κ₃ nor κ₄
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racg_pl import fused, native
from racg_pl.cross import CrossGraphEncoder, MultiheadAlignment
from racg_pl.errors import DataError
from racg_pl.facets import FacetHeads, FacetNodes
from racg_pl.geometry import RegionRelations
from racg_pl.graph_encoder import GraphEmbedder, GraphEncoder
from racg_pl.graphs import Regions, Sentences, bipartite_edges
from racg_pl.layers import WordRelations, masked_softmax
from racg_pl.method import Encoded
from racg_pl.nodes import BIGRU, require
from racg_pl.pooling import GeneralizedPooling
from racg_pl.pretrained import Pretrained
from racg_pl.reconstruction import EncodedImages, decoder

POOLED = 2  # place of κ₃'s term among those of (5)


class RACG(GraphEncoder, Pretrained, library_name="racg_pl"):
    """Scores images against captions. `racg export` writes one to a folder, `RACG.from_pretrained(FOLDER)` reads it.

    Args:
        feature_dim: F of the region store.  vocabulary: words, padding (0) and unknown (1) included.
        objects: detector classes; 0 = the store's labels are not used.
        dim: D.  align_dim: P.  word_dim: width of a word vector.  heads: H, of the alignment.
        relation_dim: M, width of what nodes say to one another.  relation_heads: of the relation layers.
        relation_channels: Q, numbers in which the score compares relations.
        relation_start: share of the usual width at which what nodes hear begins.
        depth: relation layers a graph.  neighbours: nearest regions that send to a region; None = all.
        temperature: where λ starts.  word_std: standard deviation of word vectors at the start; narrow for many words, wide for few.
        dropout: on nodes and messages.  word_dropout: share of words that training makes unknown.
        region_dropout: share of regions that training hides.
        text_encoder: bigru, or the name or folder of a BERT.  bert_config: what that is made like, in JSON; "" = read by its name.
        facets: whether each head reads a group of feature channels of its own, those that fire together.
        hide: share of related words that reconstruction hides.  decode: what of a region is decoded to words, regions (their vectors)
            or objects (their labels).
        separate_embeddings: pooled embeddings by encoders of their own, trained by a loss of their own; else of the nodes that are matched.
        The switches: see the module's docstring.
    """

    source: ClassVar[str] = (
        "a reconstruction from the abstract of *Relation-Aggregated Cross-Graph Correlation Learning for Fine-Grained Image–Text "
        "Retrieval* ([doi 10.1109/TNNLS.2022.3188569](https://doi.org/10.1109/TNNLS.2022.3188569))"
    )

    def __init__(
        self,
        feature_dim: int,
        vocabulary: int,
        objects: int = 0,
        dim: int = 1024,
        align_dim: int = 256,
        word_dim: int = 300,
        heads: int = 8,
        relation_dim: int = 256,
        relation_heads: int = 8,
        relation_channels: int = 4,
        relation_start: float = 0.01,
        depth: int = 1,
        neighbours: int | None = None,
        temperature: float = 9.0,
        word_std: float = 0.06,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        region_dropout: float = 0.0,
        text_encoder: str = BIGRU,
        bert_config: str = "",
        facets: bool = False,
        hide: float = 0.15,
        decode: str = "regions",
        separate_embeddings: bool = False,
        semantic_graph: bool = True,
        intramodal: bool = True,
        cross_graph: bool = True,
        reconstruction: bool = True,
        multihead: bool = True,
        aggregation: bool = True,
    ) -> None:
        counts = {"align_dim": align_dim, "heads": heads, "depth": depth, "relation_channels": relation_channels}
        counts |= {"relation_dim": relation_dim, "relation_heads": relation_heads}
        counts |= {} if neighbours is None else {"neighbours": neighbours}
        require(counts, {"hide": hide, "relation_start": relation_start}, {"temperature": temperature})
        for width, size, parts, number in (
            ("relation_dim", relation_dim, "relation_heads", relation_heads),
            ("align_dim", align_dim, "heads", heads),
            ("dim", dim, "heads", heads if facets else 1),
        ):
            if size % number:
                raise DataError(f"model: expected {width} to be a multiple of {parts}, got {width}={size} and {parts}={number}")
        graph = (
            *(feature_dim, vocabulary, objects, dim, word_dim, word_std, dropout, word_dropout, region_dropout),
            *(relation_dim, relation_heads, relation_start, depth, neighbours, semantic_graph, intramodal),
            *(text_encoder, bert_config),
        )
        super().__init__(*graph)  # (1), (2)
        self.hide, self.aggregation, self.heads = hide, aggregation, heads if multihead else 1
        # (3)
        self.image_align, self.text_align = nn.Linear(dim, align_dim, bias=False), nn.Linear(dim, align_dim, bias=False)
        self.facets = facets and multihead and heads > 1
        if self.facets:
            self.feature, self.image_align = FacetNodes(feature_dim, dim, heads), FacetHeads(dim, align_dim, heads)
        self.encoder = CrossGraphEncoder(temperature, gather=cross_graph)
        # (4), (5)
        self.word_alignment, self.region_alignment = MultiheadAlignment(self.heads), MultiheadAlignment(self.heads)
        compared = aggregation and intramodal and semantic_graph
        self.region_relations = RegionRelations(relation_channels) if compared else None
        self.word_relations = WordRelations(dim, relation_channels) if compared else None
        self.channels = 0 if not aggregation else relation_channels if compared else 1
        self.image_share, self.text_share = nn.Linear(dim, 1), nn.Linear(dim, 1)
        matched = aggregation and not separate_embeddings
        self.image_pool = GeneralizedPooling() if matched else None
        self.text_pool = GeneralizedPooling() if matched else None
        self.embedder = GraphEmbedder(*graph) if aggregation and separate_embeddings else None
        self.mix = nn.Parameter(torch.empty(4 if aggregation else 2))
        # (6)
        made = decoder(decode, dim, vocabulary, objects, reconstruction)  # even if it is not kept: a seed keeps its weights
        self.decode_word = made if reconstruction else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.reset_words()
        nn.init.ones_(self.mix)
        self.reset_objects()

    def read_facets(self, features: Tensor) -> None:
        """Before training: settle which channels each head reads, where heads read facets. features [N,F] of regions to train on."""
        if isinstance(self.feature, FacetNodes):
            self.feature.read(features)

    # ---- one item at a time: nothing below depends on the other modality ----

    def encode_image(self, images: Regions) -> Encoded:
        """Nodes (1), relations (2), projection (3) and pooling (5) of a batch of images, once an image."""
        given, images = images, self.hide_regions(images)
        nodes = self.image_nodes(images)
        encoded = self.encode_regions(nodes, *self.image_edges(images), images.mask)
        if self.embedder is not None:
            encoded = encoded._replace(pooled=self.embedder.embed_image(given))
        if self.decode_word is None or not self.training:
            return encoded
        step = EncodedImages(*encoded)
        step.nodes, step.labels = nodes * images.mask[..., None], self.image_objects(images) * images.mask
        return step

    def encode_text(self, texts: Sentences) -> Encoded:
        """The same for captions."""
        encoded = self.encode_words(self.text_nodes(texts), *self.text_edges(texts), texts.mask)
        return encoded if self.embedder is None else encoded._replace(pooled=self.embedder.embed_text(texts))

    def encode_regions(self, nodes: Tensor, linked: Tensor, geometry: Tensor | None, mask: Tensor) -> Encoded:
        """(2), (3) and (5) of regions as a set of nodes [B,R,D] with edges [B,R,R]."""
        x = self.relate(self.dropout(nodes), linked, geometry, self.image_relations)
        seen = self.region_relations
        relations = self.uniform(linked) if seen is None or geometry is None else seen(linked, geometry)
        return self.project(x, relations, mask, self.image_align, self.image_share, self.image_pool)

    def encode_words(self, nodes: Tensor, linked: Tensor, types: Tensor | None, mask: Tensor) -> Encoded:
        """The same of words [C,W,D]."""
        x = self.relate(self.dropout(nodes), linked, types, self.text_relations)
        said = self.word_relations
        relations = self.uniform(linked) if said is None or types is None else said(x, types)
        return self.project(x, relations, mask, self.text_align, self.text_share, self.text_pool)

    def uniform(self, linked: Tensor) -> Tensor:
        """Relations that say no more than which nodes are linked: [B,N,N] → [B,Q,N,N]."""
        return (linked / linked.sum(-1, keepdim=True).clamp(min=1))[:, None].expand(-1, self.channels, -1, -1)

    def project(
        self,
        x: Tensor,
        relations: Tensor,
        mask: Tensor,
        align: nn.Module,
        share: nn.Module,
        pool: GeneralizedPooling | None,
    ) -> Encoded:
        x = x * mask[..., None]
        pooled = x.new_zeros(len(x), 0) if pool is None else F.normalize(pool(x, mask), dim=-1)
        share_of_node = masked_softmax(share(x).squeeze(-1), mask)
        aligned = F.normalize(align(x).unflatten(-1, (self.heads, -1)), dim=-1)
        return Encoded(aligned, relations, share_of_node, pooled, mask)

    # ---- pairs ----

    def similarities(self, images: Encoded, texts: Encoded) -> Tensor:
        """The terms of (5) for all pairs: [4,B,C] by words, regions, pooled embeddings and edges ([2,B,C] without the last two)."""
        if native.available(images.aligned):
            terms = list(fused.pair_terms(self.encoder, self.word_alignment, self.region_alignment, images, texts))
        else:
            nodes = images.aligned, texts.aligned, images.mask, texts.mask
            z_w, z_r = self.encoder.dense(*nodes)
            terms = [self.word_alignment(z_w, texts.share).T, self.region_alignment(z_r, images.share)]
            terms.append(self.encoder.edges(*nodes, images.relations, texts.relations, texts.share))
        dtype = torch.promote_types(images.pooled.dtype, torch.float32)
        with torch.autocast(images.pooled.device.type, enabled=False):  # scores in bfloat16 tie: 17 rsum less on photographs
            terms.insert(POOLED, images.pooled.to(dtype) @ texts.pooled.to(dtype).T)
        return torch.stack(terms[: len(self.mix)])

    def combine(self, terms: Tensor) -> Tensor:
        """(5) of its terms: [K,B,C] → [B,C]."""
        return (self.mix[:, None, None] * terms).sum(0)  # no product of matrices, which autocast would round

    def objectives(self, terms: Tensor) -> list[Tensor]:
        """The score; where embeddings are separate, the sum of the other terms, and their term. With one loss for both, each would learn
        what the other leaves; with one each, both learn all and err differently, which their sum evens out (LOG.md)."""
        if self.embedder is None:
            return [self.combine(terms)]
        weighted = self.mix[:, None, None] * terms
        return [torch.cat((weighted[:POOLED], weighted[POOLED + 1 :])).sum(0), weighted[POOLED]]

    def pair_floats(self, aligned: Tensor, regions: int, words: int) -> int:
        if native.available(aligned):
            return 0
        return regions * words * (3 + max(2 * self.heads, 3 * self.channels)) + 3 * (regions + words) * self.heads

    def score_pairs(self, images: Encoded, texts: Encoded) -> Tensor:
        """(3)-(5) pair by pair, image k with caption k, as message passing over the bipartite graph: [K]. The oracle of `score`."""
        a, b = images.aligned.flatten(0, 1), texts.aligned.flatten(0, 1)
        m = self.encoder(a, b, bipartite_edges(images.mask, texts.mask), direction=0)
        n = self.encoder(b, a, bipartite_edges(texts.mask, images.mask), direction=1)
        z_w = (b * m).sum(-1).view(*texts.mask.shape, 1, self.heads)
        z_r = (a * n).sum(-1).view(*images.mask.shape, 1, self.heads)
        terms = [self.word_alignment(z_w, texts.share), self.region_alignment(z_r, images.share)]
        if self.aggregation:
            terms.append((images.pooled * texts.pooled).sum(-1, keepdim=True))
            alpha = self.encoder.paired(images.aligned, texts.aligned, images.mask, texts.mask)[0] * texts.mask[:, None]
            said = torch.einsum("nw,nkwv,nrw,nsv->nkrs", texts.share, texts.relations, alpha, alpha)
            terms.append((said * images.relations).sum((1, 2, 3))[:, None])
        return torch.stack(terms, -1).squeeze(1) @ self.mix

    def attend(self, images: Encoded, texts: Encoded) -> Tensor:
        """α of (3), image k with caption k: how much each word takes from each region, [K,W,R], zero at padding."""
        alpha = self.encoder.paired(images.aligned, texts.aligned, images.mask, texts.mask)[0]
        return alpha.transpose(1, 2) * texts.mask[..., None]

    def hide_words(self, texts: Sentences) -> tuple[Sentences, Tensor]:
        """Captions without a share of the words that are related to another one, and the words that (6) decodes, bool [C,W]."""
        related = (texts.relations >= 0).sum(-1) > 1
        chance = torch.rand(related.shape, device=related.device)
        share = self.hide if self.decode_word is None else max(self.hide, self.decode_word.share)
        hidden, decoded = related & (chance < self.hide), related & (chance < share)
        return texts._replace(words=texts.words.masked_fill(hidden, 1)), decoded

    def reconstruct(
        self, images: Encoded, image: Tensor, blank: Encoded, decoded: Tensor, words: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(6) of captions with their images: the summed cross-entropy of the decoded words, and their number.

        Regions are read as they were before they heard of others, so that no other region can stand in for the one that shows the word.

        Args:
            image: int64 [C], whose caption it is.  blank: captions as `hide_words` leaves them.  decoded: which of their words.
            words: int64 [C,W], as they were.
        """
        if self.decode_word is None or not isinstance(images, EncodedImages):
            raise ValueError("reconstruct: expected a model with reconstruction on, in training")
        pairs = Encoded.take(images, image)
        alpha = self.encoder.paired(pairs.aligned, blank.aligned, pairs.mask, blank.mask)[0]
        return self.decode_word.loss(images, image, alpha, decoded, words), decoded.sum()
