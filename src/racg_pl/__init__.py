"""racg_pl: relation-aggregated cross-graph learning for fine-grained image-text retrieval, on PyTorch Lightning."""

__version__ = "0.1.0"
