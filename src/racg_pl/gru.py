"""A two-way GRU over sentences whose training costs little more than its products.

Under autograd, torch's own on a CPU adds a gradient of the size of all inputs, and one of the size of all weights, at every step in time.
Here both directions go through one product a step, and the weights' gradients are one product over all steps.

Letters: S sentences, of which a step in time has s; W words of the longest, T of all together; D width of a state, I of an input.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Recurrence(torch.autograd.Function):
    """States of both directions from what the inputs say to the gates: words step by step, the second direction from the end.

    Gates are torch's (r, z, n): n = tanh(x_n + r · h_n), h ← n + z (h − n), where h_n is the last part of W h + b.
    Shapes: inputs [2,T,3D], weights [3D,D] and bias [2,3D] of the directions, sizes: s of each step → states [2,T,D].
        grad: whether gradients are recorded; a parameter, says ctx, needs one even where they are not.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, forth: Tensor, back: Tensor, bias: Tensor, sizes: list[int], grad: bool) -> Tensor:
        width, weight = forth.shape[1], torch.stack((forth, back))  # the backward pass stacks them anew: kept, that is memory
        kept = grad and any(ctx.needs_input_grad)
        states = inputs.new_empty(2, inputs.shape[1], width)
        gates = inputs.new_empty(2, inputs.shape[1] if kept else sizes[0], 4 * width)  # r, z, n and h_n
        across, state, start = weight.transpose(1, 2), inputs.new_zeros(2, sizes[0], width), 0
        for size in sizes:
            rows = slice(start, start + size)
            here, last = gates[:, rows if kept else slice(size)], state[:, :size]
            told = torch.baddbmm(bias[:, None], last, across)
            torch.add(inputs[:, rows, : 2 * width], told[..., : 2 * width], out=here[..., : 2 * width]).sigmoid_()
            r, z, n, h_n = here.split(width, -1)
            h_n.copy_(told[..., 2 * width :])
            torch.addcmul(inputs[:, rows, 2 * width :], r, h_n, out=n).tanh_()
            state = torch.lerp(n, last, z, out=states[:, rows])
            start += size
        ctx.save_for_backward(forth, back, states, gates)
        ctx.sizes = sizes
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        forth, back, states, gates = ctx.saved_tensors
        (grad,), width, sizes, weight = gradients, states.shape[2], ctx.sizes, torch.stack((forth, back))
        before = previous(states, sizes)
        d_told, d_new = torch.empty_like(gates[..., : 3 * width]), torch.empty_like(states)  # to W h + b, and to x_n
        carried, stop = grad.new_zeros(2, sizes[0], width), states.shape[1]
        for size in reversed(sizes):
            rows = slice(stop - size, stop)
            r, z, n, h_n = gates[:, rows].split(width, -1)
            dh, dn = carried[:, :size].add_(grad[:, rows]), d_new[:, rows]
            dr, dz, dh_n = d_told[:, rows].split(width, -1)
            torch.mul(dh * (1 - z), 1 - n * n, out=dn)
            torch.mul(dh * (before[:, rows] - n), z * (1 - z), out=dz)
            torch.mul(dn * h_n, r * (1 - r), out=dr)
            torch.mul(dn, r, out=dh_n)
            dh.mul_(z).baddbmm_(d_told[:, rows], weight)
            stop -= size
        del weight
        d_weight, d_bias = d_told.transpose(1, 2) @ before, d_told.sum(1)
        d_told[..., 2 * width :] = d_new  # now that to the inputs, which takes no memory of its own
        return d_told, *d_weight, d_bias, None, None


def previous(states: Tensor, sizes: list[int]) -> Tensor:
    """The state before each word, zero before the first: [2,T,D]."""
    before, start = torch.empty_like(states), 0
    before[:, : sizes[0]] = 0
    for size, following in pairwise(sizes):
        before[:, start + size : start + size + following] = states[:, start : start + following]
        start += size
    return before


class BiGRU(nn.GRU):
    """torch's two-way GRU of one layer, its parameters, names and numbers, over padded sentences; the two directions averaged.

    Shapes: vectors [S,W,I], mask [S,W], real words first → [S,W,D], zero at padding.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        lengths = mask.sum(1)
        if vectors.device.type != "cpu" or torch.is_autocast_enabled("cpu"):  # a GPU has one product for all steps
            return self.torchs(vectors, mask)
        forth, back, sizes = places(lengths, mask.shape[1])
        flat = vectors.flatten(0, 1)
        inputs = [
            F.linear(flat.index_select(0, place), getattr(self, f"weight_ih_l0{way}"), getattr(self, f"bias_ih_l0{way}"))
            for place, way in ((forth, ""), (back, "_reverse"))
        ]
        weights, biases = ([getattr(self, f"{name}_hh_l0{way}") for way in ("", "_reverse")] for name in ("weight", "bias"))
        states = Recurrence.apply(torch.stack(inputs), *weights, torch.stack(biases), sizes, torch.is_grad_enabled())
        first, second = states / 2
        states = first.new_zeros(len(flat), self.hidden_size).index_copy(0, forth, first).index_add(0, back, second)
        return states.view(*mask.shape, -1)

    def torchs(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """The same by torch's own."""
        # sorted here: where torch sorts, it waits for a device twice more
        lengths, order = mask.sum(1).cpu().sort(descending=True, stable=True)
        order = order.to(vectors.device, non_blocking=True)
        packed = pack_padded_sequence(vectors.index_select(0, order), lengths, batch_first=True)
        states, _ = pad_packed_sequence(super().forward(packed)[0], batch_first=True, total_length=mask.shape[1])
        averaged = states.unflatten(-1, (2, -1)).mean(2)
        return torch.zeros_like(averaged).index_copy(0, order, averaged)


def places(lengths: Tensor, width: int) -> tuple[Tensor, Tensor, list[int]]:
    """Words of padded sentences, step by step and at each step those of long sentences first: where each stands, and where it does when
    every sentence is read from its end, int64 [T] of S · W; and how many sentences each step has."""
    order = lengths.argsort(descending=True, stable=True)
    step, sentence = (lengths[order] > torch.arange(int(lengths.max()))[:, None]).nonzero(as_tuple=True)
    sentence = order[sentence]
    return sentence * width + step, sentence * width + lengths[sentence] - 1 - step, step.bincount().tolist()
