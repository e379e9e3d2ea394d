"""What an engine runs a model on: rows of tokens in, logits out, keys and values kept in slots.

Shape suffixes: N rows, W wanted rows, G slots of one pass, T tokens of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.model.kv_cache import KVCache
from components.model.quantized import QuantizedTransformer
from components.model.transformer import Transformer
from components.native.coverage import DECODER
from components.native.decoder import NativeDecoder, library

Rows = npt.NDArray[np.int32]


class Decoder(Protocol):
    """`slots` sequences of at most `capacity` tokens each."""

    slots: int

    def forward(self, tokens_N: Rows, slots_N: Rows, positions_N: Rows, wanted: Rows) -> Tensor:
        """Logits [W, V] of the `wanted` rows (ascending row numbers) of one pass.

        Row r is tokens_N[r] at positions_N[r] of slot slots_N[r], after all earlier positions of that slot: rows of
        one slot are adjacent, in the order of their positions.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, copied to another."""


def open_decoder(model: Transformer, slots: int, capacity: int) -> Decoder:
    """The fastest one for this model where it lies: C on a CPU for a model that it covers, else torch (graphs on
    CUDA)."""
    weight = model.norm.weight
    plain = weight.dtype == torch.float32 and not isinstance(model, QuantizedTransformer)
    if plain and weight.device.type == "cpu" and DECODER.includes(model.cfg) and library() is not None:
        return NativeDecoder(model, slots, capacity)
    return TorchDecoder(model, slots, capacity, cuda_graph=weight.is_cuda)


class TorchDecoder:
    """The model itself with a cache of static slots. `cuda_graph`: record the step of all slots once and replay it."""

    def __init__(self, model: Transformer, slots: int, capacity: int, cuda_graph: bool = False) -> None:
        weight = model.norm.weight
        self.slots, self._model, self._device = slots, model.eval(), weight.device
        self._cache = KVCache.empty(model.cfg, slots, capacity, weight.dtype, weight.device)
        self._last, self._filled = capacity - 1, np.zeros(slots, np.int64)
        self._graph = cuda_graph
        self._replay: Callable[[Tensor, Tensor], Tensor] | None = None

    @torch.inference_mode()
    def forward(self, tokens_N: Rows, slots_N: Rows, positions_N: Rows, wanted: Rows) -> Tensor:
        """Logits [W, V] of the wanted rows; see `Decoder`."""
        starts = np.flatnonzero(np.r_[True, slots_N[1:] != slots_N[:-1]]) if len(slots_N) else np.empty(0, int)
        lengths = np.diff(np.r_[starts, len(slots_N)])
        logits_WV = torch.empty(len(wanted), self._model.cfg.vocab_size, device=self._device)
        place_N = np.full(len(tokens_N), -1)
        place_N[wanted] = np.arange(len(wanted))
        self._filled[slots_N] = positions_N + 1
        # Runs of one length form one pass, without padding: a step of each sequence, or prompts of equal length.
        for length in np.unique(lengths):
            first_G = starts[lengths == length]
            rows_GT = first_G[:, None] + np.arange(length)
            slots_G, positions_G = slots_N[first_G], positions_N[first_G]
            places = place_N[rows_GT.ravel()]
            asked, target = (
                torch.from_numpy(x).to(self._device) for x in (np.flatnonzero(places >= 0), places[places >= 0])
            )
            if length == 1:
                logits = self._step(tokens_N[first_G], slots_G, positions_G)[asked]
            else:
                logits = self._prefill(tokens_N[rows_GT], slots_G, positions_G, asked)
            logits_WV[target] = logits.float()
        return logits_WV

    def _prefill(self, tokens_GT: npt.NDArray[np.int32], slots_G: Rows, starts_G: Rows, asked: Tensor) -> Tensor:
        """Logits of the rows `asked` of G · T, the others are only read."""
        slots = torch.from_numpy(slots_G).to(self._device)
        length = int(starts_G.max()) + tokens_GT.shape[1]
        part = self._cache.select(slots, length)
        part.lengths_B = torch.from_numpy(starts_G).to(self._device, torch.long)
        x_GTD = self._model.hidden(torch.from_numpy(tokens_GT).to(self._device, torch.long), cache=part).x_BTD
        for whole, piece in zip(
            self._cache.keys_LBKSC + self._cache.values_LBKSC, part.keys_LBKSC + part.values_LBKSC, strict=True
        ):
            whole[:, :, :length].index_copy_(0, slots.long(), piece)
        return self._model.logits(x_GTD.flatten(0, 1)[asked])

    def _step(self, tokens_G: Rows, slots_G: Rows, positions_G: Rows) -> Tensor:
        """One token each. All slots up to the highest take part, so that nothing is gathered; those that are not meant
        write where no sequence reads before it has written itself."""
        count = self.slots if self._graph else int(slots_G.max()) + 1
        tokens_B, positions_B = np.zeros(count, np.int64), np.minimum(self._filled[:count], self._last)
        tokens_B[slots_G], positions_B[slots_G] = tokens_G, positions_G
        tokens, positions = (torch.from_numpy(x).to(self._device) for x in (tokens_B, positions_B))
        if self._graph:
            self._replay = self._replay or self._record()
            logits_BV = self._replay(tokens, positions)
        else:
            cache = KVCache(
                [k[:count] for k in self._cache.keys_LBKSC], [v[:count] for v in self._cache.values_LBKSC], positions
            )
            logits_BV = self._model(tokens[:, None], cache=cache)[:, -1]
        return logits_BV[torch.from_numpy(slots_G).to(self._device)]

    def _record(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A CUDA graph of the step of all slots: static shapes, no dispatch from Python."""
        tokens = torch.zeros(self.slots, dtype=torch.long, device=self._device)
        cache = self._cache
        cache.lengths_B = torch.full((self.slots,), self._last, dtype=torch.long, device=self._device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # first passes set up libraries, which a graph cannot record
                self._model(tokens[:, None], cache=cache)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits_BV = self._model(tokens[:, None], cache=cache)[:, -1]

        def replay(new_tokens: Tensor, new_positions: Tensor) -> Tensor:
            tokens.copy_(new_tokens)
            cache.lengths_B.copy_(new_positions)
            graph.replay()
            return logits_BV

        return replay

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, copied to another."""
        for whole in self._cache.keys_LBKSC + self._cache.values_LBKSC:
            whole[target, :, :length] = whole[source, :, :length]
        self._filled[target] = length
