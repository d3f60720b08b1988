"""Which process of a launch this is; nothing here needs torch before the processes have met."""


def world_size() -> int:
    """Processes of this launch that have met."""
    import torch

    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    import torch

    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
