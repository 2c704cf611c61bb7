import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl4eo_stream.train.optimizer import Optimizer


@settings(deadline=None)
@given(
    lr=st.floats(1e-4, 1.0), momentum=st.floats(0, 0.99), decay=st.floats(0, 0.1),
    gradients=st.lists(st.floats(-1, 1), min_size=1, max_size=4),
)  # fmt: skip
def test_steps_follow_the_formula(lr, momentum, decay, gradients):
    layer = nn.Linear(1, 1).double()
    settings = Optimizer(lr=lr, momentum=momentum, weight_decay=decay)
    optimizer = settings.over(layer)
    weight, bias, velocities = layer.weight.item(), layer.bias.item(), [0.0, 0.0]
    for gradient in gradients:
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        # biases decay too, and there is no Nesterov look-ahead
        velocities = [
            momentum * v + gradient + decay * w
            for v, w in zip(velocities, (weight, bias), strict=True)
        ]
        weight, bias = weight - lr * velocities[0], bias - lr * velocities[1]
    assert layer.weight.item() == pytest.approx(weight, rel=1e-9, abs=1e-12)
    assert layer.bias.item() == pytest.approx(bias, rel=1e-9, abs=1e-12)


def test_frozen_parameters_stay_out():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    groups = Optimizer().over(network).param_groups
    assert len(groups) == 1
    assert [p is q for p, q in zip(groups[0]["params"], network[0].parameters(), strict=True)]
    assert groups[0]["nesterov"] is False


@pytest.mark.parametrize("field", ["lr", "momentum", "weight_decay"])
def test_nonsense_is_refused(field):
    with pytest.raises(ValueError, match=f"--optimizer.{field.replace('_', '-')} is -0.5"):
        Optimizer(**{field: -0.5})
