"""The parameters of fields as an optimiser wants them: which decay, and which are tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from recon3d.config import OptimizerConfig
from recon3d.fields.base import Encoder


def parameter_groups(
    networks: Iterable[nn.Module], encoders: Iterable[Encoder], config: OptimizerConfig
) -> list[dict[str, Any]]:
    """Networks with weight decay, encoders without; ``tables`` marks those of which only touched rows are moved, where
    ``config`` says so."""
    encoders = list(encoders)
    tables = [table for encoder in encoders for table in encoder.tables()]
    known = {id(table) for table in tables}
    others = [p for encoder in encoders for p in encoder.parameters() if id(p) not in known]
    groups = [
        {"params": [p for network in networks for p in network.parameters()], "weight_decay": config.weight_decay},
        {"params": tables, "weight_decay": 0.0, "tables": config.touched_rows},
        {"params": others, "weight_decay": 0.0},
    ]
    return [{**group, "lr": config.learning_rate} for group in groups if group["params"]]
