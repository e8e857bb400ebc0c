"""Which of the networks of an evaluation are this process's."""

from __future__ import annotations

import torch.distributed as dist

from bacon_pl.distill.sharing import deal


def own_share(networks: int) -> range:
    """Numbers of the networks that this process trains and tests; all of them where it is the only one."""
    if not (dist.is_available() and dist.is_initialized()):
        return range(networks)
    share = deal(range(networks), dist.get_rank(), dist.get_world_size())
    assert isinstance(share, range)
    return share
