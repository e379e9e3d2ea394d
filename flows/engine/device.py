"""`compute.device`: where models are trained and answer. What an algorithm computes from a few numbers of each answer
(advantages, losses of tokens) stays on the CPU, as do the sweeps over toy tasks (facts, chains), whose models have a
few thousand parameters: no launch of a kernel would be worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.cost.hardware import find_hardware, hardware_catalogue
from flows.settings import ComputeConfig, ConfigError

if TYPE_CHECKING:
    import torch

TRAINING = ("pretrain", "finetune")  # stages that compute on compute.ranks processes, too
ON_DEVICE = (  # stages that compute on compute.device
    *TRAINING,
    *("sample_answers", "collect_preferences", "train_reward_model", "best_of_n", "ppo", "dpo", "grpo"),
    *("evaluate_set", "evaluate_reasoning", "search_puzzles", "measure_forgetting", "measure_serving"),
    *("specialize_experts", "train_architecture", "compare_recurrent"),
)


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
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what is left in float32
    return device


def check_hardware(compute: ComputeConfig) -> None:
    """Raises ConfigError where an accelerator would be booked at the power and the price of a core."""
    if compute.device.partition(":")[0] != "cpu" and find_hardware(compute.hardware).kind == "cpu":
        cards = ", ".join(one.name for one in hardware_catalogue() if one.kind != "cpu")
        raise ConfigError(
            f"compute.hardware is {compute.hardware!r} while compute.device is {compute.device!r}: energy and dollars "
            f"would be those of a core; name the device that it is, one of {cards}"
        )
