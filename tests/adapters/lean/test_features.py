import pytest
import torch

from cad.adapters.lean.features import (
    ProjectionGradient,
    convolve,
    grid_gradient,
    pool_to_grid,
    project,
    turned,
    with_halo,
)


def test_turned_convolution_is_the_gradient():
    torch.manual_seed(0)
    x, weight = torch.randn(10, 6, 3).double().requires_grad_(), torch.randn(3, 3, 3, 3).double()
    y = convolve(x, weight)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    for top, bottom in [(0, 4), (4, 8), (8, 10)]:
        band = convolve(with_halo(gradient, top, bottom), turned(weight), row_padding=0)
        assert torch.allclose(band, x.grad[top:bottom])


@pytest.mark.parametrize("grid", [1, 3, 8, 11])
def test_grid_gradient_is_that_of_adaptive_pooling(grid):
    features = torch.randn(8, 6, 2).double().requires_grad_()
    pooled = pool_to_grid(features, grid)
    gradient = torch.randn_like(pooled)
    pooled.backward(gradient)
    assert torch.allclose(grid_gradient(gradient, 8, 6, 2, 6), features.grad[2:6])


def test_projection_gradient_is_that_of_project():
    torch.manual_seed(0)
    features = torch.randn(6, 4, 3).double().requires_grad_()
    weight = torch.randn(2, 3).double().requires_grad_()
    gradient = torch.randn(1, 2, 6, 4).double()
    (project(features, weight) * gradient[0]).sum().backward()
    carried = ProjectionGradient(weight.detach(), gradient)
    total = torch.ones(6, 4, 3).double()
    for top, bottom in [(0, 4), (4, 6)]:
        carried.carry_back(0, top, features.detach()[top:bottom], total[top:bottom])
    assert torch.allclose(total, 1 + features.grad)
    assert torch.allclose(carried.of_weight, weight.grad)
