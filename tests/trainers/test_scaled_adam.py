"""What our ScaledAdam promises beyond being icefall's, which tests/parity shows."""

import copy
import io
import math

import pytest
import torch

from trainers.optim import ScaledAdam, create_scaled_adam

SHAPES = [(4, 3), (4, 3), (7,), (1,), (), (2, 3, 5)]


def make_parameters(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(0.3 * torch.randn(shape)) for shape in SHAPES]


def give_gradients(parameters, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    size = scale * (20.0 if step % 7 == 6 else 1.0)
    for parameter in parameters:
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def train(parameters, optimizer, steps, scale=1.0):
    for step in steps:
        give_gradients(parameters, step, scale)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def copies(parameters):
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("scale", [1 / 4096, 1000.0])
def test_updates_do_not_depend_on_the_scale_of_the_loss(scale):
    results = []
    for factor in (1.0, scale):
        parameters = make_parameters()
        model = torch.nn.ParameterList(parameters)
        results.append(train(parameters, create_scaled_adam(model), range(150), factor))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_small_gradients_of_a_loss_per_token_count_in_full():
    # Gradients of 1e-8 would be halved by the 1e-8 that icefall adds to those of a sum.
    parameters = make_parameters()
    start = copies(parameters)
    train(parameters, create_scaled_adam(torch.nn.ParameterList(parameters)), [1], 1e-8)
    moved = (parameters[0] - start[0]).abs().mean()
    # A tenth of lr * rms: the first step of a momentum of 0.9.
    assert moved.item() == pytest.approx(0.1 * 0.045 * start[0].square().mean().sqrt().item(), rel=0.01)


def test_steps_are_relative_to_the_size_of_the_tensor():
    moves = []
    for size in (0.1, 1.0):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(size * torch.randn(20, 20))
        before = parameter.detach().clone()
        parameter.grad = torch.randn(20, 20)
        ScaledAdam([parameter]).step()
        moves.append((parameter - before).norm().item())
    assert moves[1] / moves[0] == pytest.approx(10.0, rel=1e-4)


def test_a_resumed_run_is_the_same_run():
    straight = make_parameters()
    train(straight, ScaledAdam(straight), range(130))
    # At each of these, other parts of the state are in use.
    for stop in (2, 15, 101):
        parameters = make_parameters()
        optimizer = ScaledAdam(parameters)
        train(parameters, optimizer, range(stop))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        parameters = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        optimizer = ScaledAdam(parameters, lr=1.0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
        train(parameters, optimizer, range(stop, 130))
        assert all(torch.equal(a, b) for a, b in zip(parameters, straight, strict=True))


def test_loud_steps_are_clipped_by_the_median():
    def excursion(clipping_scale):
        parameters = make_parameters()
        optimizer = ScaledAdam(parameters, clipping_scale=clipping_scale)
        train(parameters, optimizer, range(0, 70, 7))  # quiet ones, up to the first median
        before = copies(parameters)
        squares = optimizer.state[parameters[0]]["squares"].clone()
        train(parameters, optimizer, [76], scale=100.0)
        seen = (optimizer.state[parameters[0]]["squares"] - 0.98 * squares).mean().sqrt()
        return seen.item(), before

    clipped, free = excursion(2.0)[0], excursion(None)[0]
    assert free > 100 * clipped > 0


def test_nothing_happens_without_gradients():
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters)
    train(parameters, optimizer, range(5))
    before, state = copies(parameters), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("after", [0, 5, 15])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_reach_neither_weights_nor_state(after, bad, caplog):
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters)
    train(parameters, optimizer, range(after))
    before = copies(parameters)
    give_gradients(parameters, 99)
    parameters[2].grad[3] = bad
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert f"step {after} left out: its gradients are not finite" in caplog.text
    undisturbed = make_parameters()
    expected = train(undisturbed, ScaledAdam(undisturbed), range(40))
    assert torch.equal(train(parameters, optimizer, range(after, 40)), expected)


def test_a_parameter_without_gradient_goes_on_by_its_momentum():
    ours, zeros = make_parameters(), make_parameters()
    first, second = ScaledAdam(ours), ScaledAdam(zeros)
    for step in range(20):
        give_gradients(ours, step)
        give_gradients(zeros, step)
        if step > 10:
            ours[1].grad = None
            zeros[1].grad.zero_()
        first.step()
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, zeros, strict=True))


def test_single_numbers_stay_within_their_limit():
    scalar = torch.nn.Parameter(torch.tensor(0.0))
    optimizer = ScaledAdam([scalar], lr=1.0, scalar_max=0.5)
    for _ in range(50):
        scalar.grad = torch.tensor(-1.0)
        optimizer.step()
    assert scalar.item() == 0.5


def test_size_is_learned_within_its_limit():
    def size(**options):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(10, 10))
        optimizer = ScaledAdam([parameter], lr=0.02, **options)
        direction = parameter.detach().clone()
        for _ in range(60):
            parameter.grad = -direction  # larger is always better
            optimizer.step()
        return parameter.square().mean().sqrt().item()

    free, fixed, limited = size(scalar_lr_scale=0.5), size(scalar_lr_scale=0.0), size(scalar_lr_scale=0.5, max_rms=1.0)
    assert free > 1.2 * fixed > fixed > limited


def test_groups_have_their_own_rate():
    parameters = make_parameters()
    before = copies(parameters)
    optimizer = ScaledAdam([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.0}])
    train(parameters, optimizer, range(3))
    assert not torch.equal(parameters[0], before[0]) and torch.equal(parameters[2], before[2])


@pytest.mark.parametrize(
    "variable, backend", [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")]
)
def test_launches_that_shard_are_refused(variable, backend, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=f"whole tensors and {backend} trains pieces.*adamw_torch_fused"):
        create_scaled_adam(torch.nn.Linear(2, 2))


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ValueError, match="Linear has no trainable parameter"):
        create_scaled_adam(torch.nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"in float32.*bfloat16"):
        create_scaled_adam(torch.nn.Linear(2, 2).bfloat16())
    with pytest.raises(ValueError, match="clipping_scale must be above 0"):
        ScaledAdam(make_parameters(), clipping_scale=0.0)
    with pytest.raises(ValueError, match=r"betas in \[0, 1\)"):
        ScaledAdam(make_parameters(), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="periods must be at least 1"):
        ScaledAdam(make_parameters(), size_period=0)


def test_replaced_parameters_are_noticed():
    # As DeepSpeed does behind an optimiser's back.
    parameters = make_parameters()
    optimizer = ScaledAdam(parameters)
    flat = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.ones_like(flat)
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(ValueError, match="changed shape since ScaledAdam was made"):
        optimizer.step()


def test_a_closure_is_evaluated():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = ScaledAdam([parameter])

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0 and parameter.square().sum() < 3.0
