"""Adam, as networks and the tables of encoders want it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from recon3d.kernels import adam_rows


class Adam(torch.optim.Optimizer):
    """torch's fused Adam with an L2 penalty; in groups with ``tables`` set, row by row.

    A table (rows, f) has many rows of which a step touches few: those whose gradient is all 0 stay as they are, their
    moments too, and each row counts its own steps (see :mod:`recon3d.kernels.adam.reference`). Where all rows are
    touched at every step the result is Adam's. Tables take no ``weight_decay``.

    The learning rates are tensors on the device, so that a step can be recorded once and repeated with others:
    :meth:`set_rates`. A step waits for nothing; gradients scaled by ``torch.amp.GradScaler`` are unscaled within it.
    """

    _step_supports_amp_scaling = True

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        defaults = {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "tables": False, "fused": True}
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["tables"] and group["weight_decay"]:
                raise ValueError("rows that are not touched cannot decay: give tables no weight_decay")
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def set_rates(self, rates: list[float]) -> None:
        """The learning rate of every group."""
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"].fill_(rate)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("this Adam takes no closure")
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            update = self._step_tables if group["tables"] else self._step_whole
            if parameters:
                update(group, parameters, scale, found_inf)

    def _step_whole(
        self, group: dict[str, Any], parameters: list[Tensor], scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        states = [self._moments(p, torch.zeros((), device=p.device)) for p in parameters]
        adam(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            grad_scale=scale,
            found_inf=found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        torch.autograd.graph.increment_version(parameters)  # which torch's fused step forgets

    def _step_tables(
        self, group: dict[str, Any], parameters: list[Tensor], scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        for table in parameters:
            assert table.grad is not None
            state = self._moments(table, torch.zeros(len(table), device=table.device))
            if state["step"].ndim == 0:  # from a checkpoint that counted them for all rows
                state["step"] = state["step"].expand(len(table)).clone()
            adam_rows(
                table,
                table.grad,
                state["exp_avg"],
                state["exp_avg_sq"],
                state["step"],
                group["lr"],
                group["betas"],
                group["eps"],
                torch.ones((), device=table.device) if scale is None else scale,
                torch.zeros((), device=table.device) if found_inf is None else found_inf,
            )

    def _moments(self, parameter: Tensor, steps: Tensor) -> dict[str, Tensor]:
        """The state of a parameter; a new one counts in ``steps``."""
        state = self.state[parameter]
        if not state:
            state["step"] = steps
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state
