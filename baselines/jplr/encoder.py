"""Causal encoders of paths over given input vectors: a Transformer, a recurrent skipping network (RSN), an RNN."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.paths.body import BodyShape, GptBody
from kpi_bench.errors import SubmissionError

ENCODERS = ("transformer", "rsn", "rnn")


class PathEncoder(nn.Module, ABC):
    """States of a path's tokens, each from the tokens up to it; places 0, 2, ... are entities, 1, 3, ... relations."""

    @abstractmethod
    def forward(self, inputs: Tensor, known: Tensor | None = None) -> Tensor:
        """States ``[b, t, d]`` of inputs ``[b, t, d]``. ``known`` bool ``[b, t]`` is False where a path has ended: nothing that is read
        may depend on those, and states there mean nothing. None: all are known."""


def create_encoder(kind: str, shape: BodyShape, generator: torch.Generator) -> PathEncoder:
    """An encoder of ``ENCODERS``, its weights drawn from ``generator``.

    Raises:
        SubmissionError: an unknown kind, or sizes that do not fit.
    """
    if kind == "transformer":
        return PathTransformer(shape, generator)
    if kind in ENCODERS:
        return SkippingNetwork(shape, generator, skip=kind == "rsn")
    raise SubmissionError(f"unknown encoder {kind!r}; use one of {', '.join(ENCODERS)}")


class PathTransformer(PathEncoder):
    """Pre-norm causal Transformer with learned positions.

    Raises:
        SubmissionError: ``hidden`` is no multiple of ``heads``; a path is longer than ``positions``.
    """

    def __init__(self, shape: BodyShape, generator: torch.Generator) -> None:
        super().__init__()
        if shape.hidden % shape.heads:
            raise SubmissionError(f"hidden = {shape.hidden} is no multiple of heads = {shape.heads}")
        self.positions = shape.positions
        self.body = GptBody(shape, generator)

    def forward(self, inputs: Tensor, known: Tensor | None = None) -> Tensor:
        # Tokens behind a path's end are to the right of all that is read, where a causal model does not look.
        if inputs.shape[1] > self.positions:
            raise SubmissionError(
                f"a path of {inputs.shape[1]} tokens does not fit {self.positions} positions; raise `positions`"
            )
        states: Tensor = self.body(inputs)
        return states


class SkippingNetwork(PathEncoder):
    """LSTM between two batch norms; with ``skip`` it is the RSN (Guo, Sun, Hu, ICML 2019): z = BN(x), h = LSTM(z), at relations
    o_t = W1 h_t + W2 z_{t-1}, at entities o_t = h_t, and BN(o) comes out. Without it o = h everywhere.

    Orthogonal LSTM weights (those by input and by state of a layer drawn as one matrix), forget bias 1, dropout behind each layer.
    Departures from the authors' code: the LSTM has its tanh, where theirs has the identity (so that cuDNN's kernels apply), and batch
    statistics leave out tokens behind a path's end. In training these statistics are of the whole batch: there, and only there, a
    state depends on later tokens and other paths.
    """

    def __init__(self, shape: BodyShape, generator: torch.Generator, *, skip: bool) -> None:
        super().__init__()
        d, self.dropout = shape.hidden, shape.dropout
        # On the meta device torch's own initialisation draws nothing from the global generator.
        with torch.device("meta"):
            self.lstm = nn.LSTM(
                d, d, shape.layers, batch_first=True, dropout=shape.dropout if shape.layers > 1 else 0.0
            )
        self.lstm.to_empty(device="cpu")
        self.before, self.after = nn.BatchNorm1d(d), nn.BatchNorm1d(d)
        with torch.no_grad():
            for layer in range(shape.layers):
                weights = torch.empty(4 * d, 2 * d)
                nn.init.orthogonal_(weights, generator=generator)
                by_input, by_state, bias, other_bias = (
                    getattr(self.lstm, f"{name}_l{layer}")
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                by_input.copy_(weights[:, :d])
                by_state.copy_(weights[:, d:])
                bias.zero_()
                other_bias.zero_()
                # The gates' order is input, forget, cell, output.
                bias[d : 2 * d] = 1.0
        self.skip: nn.ParameterList | None = None
        if skip:
            self.skip = nn.ParameterList(torch.empty(d, d) for _ in range(2))
            for weight in self.skip:
                nn.init.xavier_normal_(weight, generator=generator)

    def forward(self, inputs: Tensor, known: Tensor | None = None) -> Tensor:
        subjects = _normalised(self.before, inputs, known)
        states = functional.dropout(self.lstm(subjects)[0], self.dropout if self.training else 0.0)
        if self.skip is not None:
            by_state, by_subject = self.skip
            n = inputs.shape[1] // 2
            at_relations = states[:, 1::2] @ by_state.T + subjects[:, : 2 * n : 2] @ by_subject.T
            states = states.clone()
            states[:, 1::2] = at_relations.to(states.dtype)
        return _normalised(self.after, states, known)


def _normalised(norm: nn.BatchNorm1d, values: Tensor, known: Tensor | None) -> Tensor:
    """Batch norm of ``[b, t, d]`` over the known tokens; zeros elsewhere."""
    flat = values.flatten(0, 1)
    if known is None or not norm.training:
        out: Tensor = norm(flat)
    else:
        at = known.flatten().nonzero()[:, 0]
        normalised = norm(flat.index_select(0, at))
        out = torch.zeros_like(flat, dtype=normalised.dtype).index_copy(0, at, normalised)
    return out.view_as(values)
