"""One training on many ranks: data parallel (DDP) or with everything sharded as well (FSDP2), launched by torchrun.

Every rank executes the same stage. `Group` gives each its rows of a step's batch and makes loss and gradient those of
the whole batch, so that the loop of `components.training.language_model` stays as it is and its losses are those of one
process (in float64 to rounding; in float32 a router may choose otherwise after some steps).

- Loss: each rank divides by the weight of the *whole* batch. What the loop sees is the whole batch's value; what flows
  back is the rank's own part, times the number of ranks, because DDP and FSDP2 average.
- Experts: the share of the tokens that each got, in the balancing loss and for the selection bias, is of all ranks.
- Muon (`ShardedMuon`): momentum is where the gradients are, and each rank orthogonalizes its share of the matrices.
- State: by the names of the parameters, written and read by torch.distributed.checkpoint as safetensors, so that any
  number of ranks resumes what any other number saved. Nothing is pickled.

Sources: Li et al. 2020 (DDP), Zhao et al. 2023 (FSDP), Liu et al. 2025 (Moonlight; distributed Muon).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from components.model.moe import MixtureOfExperts
from components.model.skeleton import skeleton
from components.model.transformer import Transformer
from components.training.language_model import LMBatch, summed_loss
from components.training.optimizers import Muon, Optimizer, newton_schulz
from components.training.state import Savable, state_tensors

Parallel = Literal["ddp", "fsdp2"]
TIMEOUT = timedelta(minutes=5)  # of a collective: a rank that is gone is told by then at the latest


def join(device: torch.device) -> None:
    """Join the ranks that torchrun started with this one."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def leave() -> None:
    """All ranks together: without it a rank that ends first aborts the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """This process among those of the training; (0, 1) for one process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def total(value: float) -> float:
    """The sum over the ranks."""
    if rank_and_size()[1] == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return float(summed)


def any_rank(value: bool) -> bool:
    """Whether it is true on any rank; every rank asks."""
    return total(float(value)) > 0


class Group:
    """The ranks that train one model. Make it before the optimizer: FSDP2 exchanges the parameters.

    Args:
        model: the same on all ranks; changed in place.
        parallel: "ddp" keeps the model whole on every rank, "fsdp2" shards its blocks.
        precision: of the products, "float32" or "bfloat16"; weights and sums over ranks are as they are.

    Raises:
        ValueError: a batch has fewer rows than there are ranks, or not a multiple of them (at the first batch).
    """

    def __init__(self, model: nn.Module, parallel: Parallel, precision: str = "float32") -> None:
        self.rank, self.size = rank_and_size()
        self.model, self.parallel = model, parallel
        self._weight_ratio = self._token_ratio = 1.0
        for layer in model.modules():
            if isinstance(layer, MixtureOfExperts):
                layer.counts_all_ranks = True
        if parallel == "fsdp2":
            _shard(model)
            self._summed: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Summed(model, precision)
        else:
            self._summed = nn.parallel.DistributedDataParallel(_Summed(model, precision))

    def batches(self, batch_at: Callable[[int], LMBatch]) -> Callable[[int], LMBatch]:
        """This rank's rows of each step's batch."""

        def rows_at(step: int) -> LMBatch:
            whole = batch_at(step)
            rows = whole.tokens_BT.shape[0]
            if rows % self.size:
                raise ValueError(f"batch_size is {rows}: on {self.size} ranks it must be a multiple of {self.size}")
            parts: dict[str, Any] = {
                f.name: None if (x := getattr(whole, f.name)) is None else x.chunk(self.size)[self.rank]
                for f in fields(whole)
            }
            mine = LMBatch(**parts)
            self._weight_ratio = mine.loss_weight() / whole.loss_weight()
            self._token_ratio = (mine.num_tokens() or 1) / (whole.num_tokens() or 1)
            return mine

        return rows_at

    def loss(self, model: Any, batch: LMBatch) -> tuple[Tensor, Tensor, Tensor]:
        """In the place of `summed_loss`, for a loop that divides by this rank's loss weight."""
        cross_entropy, z, auxiliary = self._summed(*(getattr(batch, f.name) for f in fields(batch)))
        return (
            self._of_all(cross_entropy, self._weight_ratio),
            self._of_all(z, self._weight_ratio),
            self._of_all(auxiliary, self._token_ratio),
        )

    def _of_all(self, mine: Tensor, ratio: float) -> Tensor:
        """The sum over all ranks in value, this one's part in gradient. `ratio`: this rank's divisor over that of the
        whole batch."""
        whole = mine.detach().clone()
        dist.all_reduce(whole)
        return ratio * (whole + self.size * (mine - mine.detach()))

    def adopt(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer, whose Muon shares its work among the ranks from now on."""
        named = {id(param): name for name, param in self.model.named_parameters()}
        assert isinstance(optimizer.muon, Muon)
        optimizer.muon = ShardedMuon(optimizer.muon, named)
        return optimizer

    def save(self, folder: Path, optimizer: Optimizer, also: Sequence[Savable] = ()) -> None:
        """Write model, optimizer and `also` into `folder`; every rank calls it. `load_sharded` is the inverse."""
        save_sharded(folder, self.model, optimizer, also)

    def whole(self) -> Transformer:
        """The model as one process has it, on the CPU; every rank calls it."""
        model = skeleton(self.model.cfg)  # type: ignore[arg-type]
        model.load_state_dict(self.full_weights())
        return model

    def full_weights(self) -> dict[str, Tensor]:
        """The whole model's tensors by name, on the CPU of every rank."""
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
            for name, value in self.model.state_dict().items()
        }


class _Summed(nn.Module):
    """`summed_loss` as a module's forward, which DDP needs."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, *parts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        names = [f.name for f in fields(LMBatch)]
        batch = LMBatch(**dict(zip(names, parts, strict=True)))  # type: ignore[arg-type]
        device = batch.tokens_BT.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return summed_loss(self.model, batch)  # type: ignore[arg-type]


def _shard(model: nn.Module) -> None:
    """FSDP2, a unit a block; the model is entered through `hidden` and `cross_entropy`, not only `forward`."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in model.blocks:  # type: ignore[union-attr]
        fully_shard(block)
    fully_shard(model)
    for entrance in ("hidden", "cross_entropy"):
        register_fsdp_forward_method(model, entrance)


class ShardedMuon:
    """`Muon` on many ranks: the same update, each matrix orthogonalized on one of them.

    Where parameters are whole on every rank (DDP), a rank keeps the momentum of its matrices alone and all ranks gather
    the updates. Where they are sharded by rows (FSDP2), momentum is sharded too; the rows of each matrix travel to its
    rank and back, one all-to-all each way. Stacks of experts are sharded by expert: they need not travel.
    """

    def __init__(self, muon: Muon, names: Mapping[int, str]) -> None:
        self.momentum, self.weight_decay, self.least = muon.momentum, muon.weight_decay, muon.least
        self.rank, self.size = rank_and_size()
        self.groups = [[param for param in group if isinstance(param, nn.Parameter)] for group in muon.groups]
        self.names = [[names[id(param)] for param in group] for group in self.groups]
        # Of matrices that are whole on every rank, each rank has the momentum of its own alone.
        self.named_buffers = {
            name: torch.zeros_like(param.detach())
            for labels, group in zip(self.names, self.groups, strict=True)
            for number, (name, param) in enumerate(zip(labels, group, strict=True))
            if isinstance(param, DTensor) or number % self.size == self.rank
        }
        self.buffers = list(self.named_buffers.values())

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply one update from the gradients that the parameters hold."""
        for labels, group in zip(self.names, self.groups, strict=True):
            rows, columns = group[0].shape[-2:]
            scale = lr * max(self.least, rows / columns) ** 0.5
            update = self._of_shards if isinstance(group[0], DTensor) else self._of_whole
            for param, change in zip(group, update(labels, group), strict=True):
                here = param.to_local() if isinstance(param, DTensor) else param
                here.mul_(1 - lr * self.weight_decay)
                here.sub_(change, alpha=scale)

    def _of_whole(self, labels: Sequence[str], group: Sequence[Tensor]) -> list[Tensor]:
        """Orthogonalized updates of parameters that every rank has whole; rank r makes those of r, r + size, …"""
        mine = {name: param for name, param in zip(labels, group, strict=True) if name in self.named_buffers}
        each = -(-len(group) // self.size)
        made = group[0].new_zeros(each, *group[0].shape)
        if mine:
            buffers = [self.named_buffers[name] for name in mine]
            made[: len(mine)] = _orthogonal(_momentum(list(mine.values()), buffers, self.momentum))
        if self.size == 1:
            return list(made)
        gathered = [torch.empty_like(made) for _ in range(self.size)]
        dist.all_gather(gathered, made)
        return [gathered[number % self.size][number // self.size] for number in range(len(group))]

    def _of_shards(self, labels: Sequence[str], group: Sequence[Tensor]) -> list[Tensor]:
        """Orthogonalized updates of this rank's rows of parameters that are sharded by their first axis."""
        local = _momentum(group, [self.named_buffers[name] for name in labels], self.momentum)
        if group[0].dim() > 2:  # whole experts
            return [_orthogonal([part])[0] if part.numel() else part for part in local]
        rows, columns = group[0].shape
        height = -(-rows // self.size)  # of a shard; the last ones may be lower, or empty
        heights = [max(0, min(height, rows - height * rank)) for rank in range(self.size)]
        owned = [list(range(owner, len(group), self.size)) for owner in range(self.size)]
        out = torch.cat([local[number].flatten() for numbers in owned for number in numbers])
        sent = [len(numbers) * heights[self.rank] * columns for numbers in owned]
        got = [len(owned[self.rank]) * high * columns for high in heights]
        there = out.new_empty(sum(got))
        dist.all_to_all_single(there, out, got, sent)
        if owned[self.rank]:
            count = len(owned[self.rank])
            shards = [part.view(count, high, columns) for part, high in zip(there.split(got), heights, strict=True)]
            whole = torch.cat(shards, 1)
            made = newton_schulz(whole)
            there = torch.cat([part.flatten() for part in made.split(heights, 1)])
        back = torch.empty_like(out)
        dist.all_to_all_single(back, there, sent, got)
        changes: list[Tensor] = [out] * len(group)
        pieces = iter(back.view(len(group), heights[self.rank], columns))
        for numbers in owned:
            for number in numbers:
                changes[number] = next(pieces)
        return changes


def _momentum(params: Sequence[Tensor], buffers: Sequence[Tensor], momentum: float) -> list[Tensor]:
    """Move the buffers by the gradients; Nesterov's updates, of this rank's shards."""
    updates = []
    for param, buffer in zip(params, buffers, strict=True):
        assert param.grad is not None
        grad, held = (x.to_local() if isinstance(x, DTensor) else x for x in (param.grad, buffer))
        held.lerp_(grad, 1 - momentum)
        updates.append(grad.lerp(held, momentum))
    return updates


def _orthogonal(updates: Sequence[Tensor]) -> Tensor:
    stack = torch.stack(list(updates))
    return newton_schulz(stack.flatten(0, -3)).view_as(stack)


_NUMBERED = re.compile(r"(.*)optimizer\.(muon|adamw)\.(\d+)(\.\w+)?")
_OF_MODEL = ("guard.snapshot.0.", "early_stop.best.")  # tensors with the shape of the model's, or the optimizer's


def save_sharded(folder: Path, model: nn.Module, optimizer: Optimizer, also: Sequence[Savable] = ()) -> None:
    """Write all tensors that resuming needs as safetensors, each rank its shards; every rank calls it."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(_named(model, optimizer, also), storage_writer=writer, no_dist=not dist.is_initialized())


def load_sharded(folder: Path, model: nn.Module, optimizer: Optimizer, also: Sequence[Savable] = ()) -> None:
    """The inverse of `save_sharded`; the number of ranks may be another, and one process needs no group."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    for group in optimizer.adamw.param_groups:
        for param in group["params"]:
            if not optimizer.adamw.state[param]:  # what its first step would make
                zeros = {name: torch.zeros_like(param.detach()) for name in ("exp_avg", "exp_avg_sq")}
                step = torch.zeros((), dtype=torch.float32, device=param.device)
                optimizer.adamw.state[param].update({"step": step, **zeros})
    state = _named(model, optimizer)  # loaded in place
    reader = HuggingFaceStorageReader(str(folder))
    more: dict[str, Tensor] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        head = next((head for head in _OF_MODEL if name.startswith(head)), "")
        like = name.removeprefix(head) if head != _OF_MODEL[1] else f"model.{name.removeprefix(head)}"
        if name in state or (like not in state and (head or name.startswith("optimizer."))):
            continue  # the last: another rank's momentum
        assert isinstance(entry, TensorStorageMetadata)
        size = torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
        more[name] = torch.zeros_like(state[like]) if head else size
    load({**state, **more}, storage_reader=reader, no_dist=not dist.is_initialized())
    for part in also:
        part.load_tensors(_numbered(more, model, optimizer))


def _named(model: nn.Module, optimizer: Optimizer, also: Sequence[Savable] = ()) -> dict[str, Tensor]:
    """The state, the optimizer's by the names of the parameters and not by their numbers, which depend on the layout.
    Views of what the optimizer holds, so that loading into them is loading it."""
    state = state_tensors(model, optimizer)
    for part in also:
        state |= part.tensors()
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach()
        for name, piece in _pieces(key, value, model, optimizer):
            named[name] = piece
    return named


def _pieces(key: str, value: Tensor, model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    found = _NUMBERED.fullmatch(key)
    if not found:
        yield key, value
        return
    head, kind, number, field = found[1], found[2], int(found[3]), found[4] or ""
    names = _names_of(kind, number, model, optimizer)
    one = len(names) == 1 and (kind == "adamw" or isinstance(optimizer.muon, ShardedMuon))
    for name, piece in zip(names, [value] if one else value, strict=True):
        yield f"{head}optimizer.{kind}{field}.{name}", piece


def _names_of(kind: str, number: int, model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters whose state has this number in `Optimizer.state_tensors`."""
    names = {id(param): name for name, param in model.named_parameters()}
    if kind == "adamw":
        params = [param for group in optimizer.adamw.param_groups for param in group["params"]]
        return [names[id(params[number])]]
    if isinstance(optimizer.muon, ShardedMuon):
        return [list(optimizer.muon.named_buffers)[number]]
    return [names[id(param)] for param in optimizer.muon.groups[number]]


def _numbered(named: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The inverse of `_named`, of the guard's snapshot."""
    found = {name: value for name, value in named.items() if "optimizer." not in name}
    head = _OF_MODEL[0]
    for key in state_tensors(model, optimizer):
        if match := _NUMBERED.fullmatch(key):
            kind, number, field = match[2], int(match[3]), match[4] or ""
            names = [f"{head}optimizer.{kind}{field}.{n}" for n in _names_of(kind, number, model, optimizer)]
            if all(name in named for name in names):
                stacked = kind == "muon" and not isinstance(optimizer.muon, ShardedMuon)
                found[head + key] = torch.stack([named[n] for n in names]) if stacked else named[names[0]]
    return found
