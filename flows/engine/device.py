"""`compute.device`: where pretraining and fine-tuning compute. All else is small and runs on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.settings import ConfigError

if TYPE_CHECKING:
    import torch

TRAINING = ("pretrain", "finetune")  # stages that compute on compute.device, and on compute.ranks processes


def usable(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ConfigError: there is none on this machine, or torch was built without it.
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"compute.device = {name!r}: torch {torch.__version__} cannot compute there ({reason}); "
            'take "cpu", or install a torch that is built for the device'
        ) from None
    return device
