"""The optimiser: torch's Adam where everything is touched, and still rows where not."""

import copy

import pytest
import torch

from recon3d.training.adam import Adam

BETAS, EPSILON = (0.9, 0.99), 1e-15


def pair(tables):
    """The same parameters twice: for ours and for torch's Adam."""
    torch.manual_seed(0)
    values = [torch.randn(20, 2), torch.randn(7)]
    mine, theirs = ([v.clone().requires_grad_() for v in values] for _ in range(2))
    groups = [{"params": [mine[0]], "lr": 1e-2, "tables": tables}, {"params": [mine[1]], "lr": 3e-3}]
    ours = Adam(groups, BETAS, EPSILON)
    groups = [{"params": [theirs[0]], "lr": 1e-2}, {"params": [theirs[1]], "lr": 3e-3}]
    return mine, theirs, ours, torch.optim.Adam(groups, betas=BETAS, eps=EPSILON)


def grads_for(parameters, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in parameters]


@pytest.mark.parametrize("tables", [False, True])
def test_touching_everything_is_adam(tables):
    mine, theirs, ours, truth = pair(tables)
    for step in range(30):
        for a, b, grad in zip(mine, theirs, grads_for(mine, step)):
            a.grad, b.grad = grad.clone(), grad.clone()
        ours.step()
        truth.step()
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b)


def test_rows_without_gradient_stay():
    (table, _), _, ours, _ = pair(tables=True)
    before = table.detach().clone()
    for step in range(5):
        table.grad = grads_for([table], step)[0]
        table.grad[3:11] = 0
        ours.step()
    assert torch.equal(table[3:11], before[3:11])
    assert not torch.isclose(table[11:], before[11:]).any()
    assert ours.state[table]["step"].tolist() == [5.0] * 3 + [0.0] * 8 + [5.0] * 9


def test_a_row_counts_its_own_steps():
    """A row that waited moves, when it is touched at last, by the learning rate: Adam's first step."""
    (table, _), _, ours, _ = pair(tables=True)
    for step in range(10):
        table.grad = torch.ones_like(table)
        table.grad[0] *= step == 9
        before = table.detach().clone()
        ours.step()
    torch.testing.assert_close(before[0] - table[0], torch.full((2,), 1e-2))


def test_rates_can_change():
    (_, vector), _, ours, _ = pair(tables=True)
    before = vector.detach().clone()
    ours.set_rates([1.0, 0.5])
    vector.grad = torch.ones_like(vector)
    ours.step()
    torch.testing.assert_close(before - vector, torch.full((7,), 0.5))


def test_a_scaled_gradient_that_overflows_is_skipped():
    (table, vector), _, ours, _ = pair(tables=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, moves in ((1.0, True), (torch.inf, False)):
        before = [table.detach().clone(), vector.detach().clone()]
        ours.zero_grad()
        scaler.scale(factor * (table.sum() + vector.sum())).backward()
        scaler.step(ours)
        scaler.update()
        for value, old in zip((table, vector), before):
            assert torch.equal(value, old) is not moves
    torch.testing.assert_close(ours.state[table]["step"], torch.ones(20))
    torch.testing.assert_close(ours.state[vector]["step"], torch.ones(()))


@pytest.mark.parametrize("other", [False, True])
def test_state_travels(other):
    """Through a state_dict: of ours, and of torch's Adam, whose count is one for all rows."""
    mine, theirs, ours, truth = pair(tables=True)
    for step in range(4):
        for a, b, grad in zip(mine, theirs, grads_for(mine, step)):
            a.grad, b.grad = grad.clone(), grad.clone()
        ours.step()
        truth.step()
    again, _, fresh, _ = pair(tables=True)
    saved = copy.deepcopy((truth if other else ours).state_dict()["state"])
    fresh.load_state_dict({"state": saved, "param_groups": fresh.state_dict()["param_groups"]})
    for a, b, value, grad in zip(again, theirs, mine, grads_for(mine, 9)):
        a.data.copy_(value)
        a.grad, b.grad = grad.clone(), grad.clone()
    fresh.step()
    truth.step()
    for a, b in zip(again, theirs):
        torch.testing.assert_close(a, b)


def test_tables_take_no_weight_decay():
    with pytest.raises(ValueError, match="weight_decay"):
        Adam([{"params": [torch.zeros(2, 2)], "lr": 1.0, "tables": True, "weight_decay": 0.1}], BETAS, EPSILON)
