"""Eden as a schedule of the Trainer; tests/parity compares its numbers with icefall's."""

import io

import pytest
import torch

from trainers.optim import Eden, ScaledAdam


def make(lr=0.045, **options):
    optimizer = ScaledAdam([torch.nn.Parameter(torch.zeros(2))], lr)
    return optimizer, Eden(optimizer, **options)


def rates(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_warms_up_and_falls_with_steps_and_whole_epochs():
    found = rates(*make(1.0, lr_batches=40.0, lr_epochs=2.0, steps_per_epoch=30, warmup_batches=10), 100)
    assert found[0] == 0.5
    assert found[5] == pytest.approx(0.75 * (1 + 25 / 1600) ** -0.25)
    # Whole epochs: a step down where each begins.
    assert found[29] == pytest.approx((1 + 29**2 / 1600) ** -0.25)
    assert found[30] == pytest.approx((1 + 30**2 / 1600) ** -0.25 * (1 + 1 / 4) ** -0.25)
    assert found[99] == pytest.approx((1 + 99**2 / 1600) ** -0.25 * (1 + 9 / 4) ** -0.25)


def test_without_epochs_only_steps_count():
    found = rates(*make(1.0, lr_batches=40.0, warmup_batches=0), 90)
    assert found[0] == 1.0 and found[80] == pytest.approx(5**-0.25)


def test_a_resumed_schedule_goes_on():
    options = {"lr_batches": 40.0, "steps_per_epoch": 7, "warmup_batches": 20}
    straight = rates(*make(**options), 60)
    optimizer, schedule = make(**options)
    found = rates(optimizer, schedule, 25)
    files = [io.BytesIO(), io.BytesIO()]
    for file, owner in zip(files, (optimizer, schedule), strict=True):
        torch.save(owner.state_dict(), file)
        file.seek(0)
    # The order in which the Trainer makes and loads them.
    optimizer, schedule = make(**options)
    optimizer.load_state_dict(torch.load(files[0], weights_only=True))
    schedule.load_state_dict(torch.load(files[1], weights_only=True))
    assert found + rates(optimizer, schedule, 35) == straight


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr_batches": 0.0}, "lr_batches and lr_epochs must be above 0"),
        ({"lr_epochs": -1.0}, "lr_batches and lr_epochs must be above 0"),
        ({"warmup_start": 1.5}, r"share of the learning rate, in \[0, 1\]; got 1.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1"),
    ],
)
def test_impossible_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
