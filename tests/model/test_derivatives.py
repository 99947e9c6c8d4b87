"""Derivatives of functions of rows: by autograd, and by differences where there is no gradient."""

import pytest
import torch

from worldmodel.model.derivatives import (
    compute_hessian,
    compute_jacobian,
    estimate_hessian,
    estimate_jacobian,
)

torch.manual_seed(0)
WEIGHT = torch.randn(3, 4, dtype=torch.float64)
ROWS = torch.randn(5, 2, 3, dtype=torch.float64)
ALL = [0, 1, 2]


def bend(rows):
    """(...,3) -> (...,4)."""
    return torch.sin(rows @ WEIGHT) * rows.prod(-1, keepdim=True)


def measure(rows):
    """(...,3) -> (...)."""
    return torch.exp(rows[..., 0]) * rows[..., 1] ** 3 + bend(rows).square().sum(-1)


def differentiate(function, row, times):
    found = torch.func.jacrev(function)
    return (torch.func.jacrev(found) if times == 2 else found)(row)


@pytest.mark.parametrize(("find", "close"), [(compute_jacobian, 1e-12), (None, 2e-4)])
def test_jacobians_are_those_of_each_row(find, close):
    found = find(bend, ROWS) if find else estimate_jacobian(bend, ROWS, ALL)
    assert found.shape == (5, 2, 4, 3)
    for i in range(5):
        for j in range(2):
            wanted = differentiate(bend, ROWS[i, j], 1)
            torch.testing.assert_close(found[i, j], wanted, atol=close, rtol=close)


@pytest.mark.parametrize(("find", "close"), [(compute_hessian, 1e-12), (None, 2e-3)])
def test_hessians_are_those_of_each_row(find, close):
    gradient, hessian = find(measure, ROWS) if find else estimate_hessian(measure, ROWS, ALL)
    assert gradient.shape == (5, 2, 3) and hessian.shape == (5, 2, 3, 3)
    for i in range(5):
        for j in range(2):
            for found, times in ((gradient, 1), (hessian, 2)):
                wanted = differentiate(measure, ROWS[i, j], times)
                torch.testing.assert_close(found[i, j], wanted, atol=close, rtol=close)


def test_differences_leave_other_entries_out():
    jacobian = estimate_jacobian(bend, ROWS, [0, 2])
    full = estimate_jacobian(bend, ROWS, ALL)
    assert (jacobian[..., 1] == 0).all() and torch.equal(jacobian[..., 2], full[..., 2])
    gradient, hessian = estimate_hessian(measure, ROWS, [2])
    whole = estimate_hessian(measure, ROWS, ALL)
    assert (gradient[..., :2] == 0).all() and torch.equal(gradient[..., 2], whole[0][..., 2])
    assert hessian.count_nonzero() == 10 and torch.equal(hessian[..., 2, 2], whole[1][..., 2, 2])


@pytest.mark.parametrize("height", [5.0, 0.15])
def test_a_jump_beside_a_row_is_no_slope(height):
    def jump(rows):
        return torch.where(rows > 0.001, rows + height, rows)

    found = estimate_jacobian(jump, torch.tensor([[0.0], [0.002], [1.0]]).double(), [0])
    torch.testing.assert_close(found.flatten(), torch.ones(3).double())


@torch.no_grad()
def test_what_depends_on_nothing_has_derivatives_of_zero():
    def constant(rows):
        return torch.ones(rows.shape[:-1])

    gradient, hessian = compute_hessian(constant, ROWS)
    assert not gradient.any() and not hessian.any() and hessian.shape == (5, 2, 3, 3)
    jacobian = compute_jacobian(lambda rows: torch.ones(*rows.shape[:-1], 4), ROWS)
    assert not jacobian.any() and jacobian.shape == (5, 2, 4, 3)
    straight = compute_hessian(lambda rows: rows.sum(-1), ROWS)
    assert (straight[0] == 1).all() and not straight[1].any()


@pytest.mark.parametrize("find", [compute_jacobian, compute_hessian])
def test_rows_are_left_as_they_were(find):
    rows = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    find(lambda x: x.square().sum(-1, keepdim=find is compute_jacobian), rows)
    assert not rows.requires_grad
