"""The law lr(i) = f * w(i) * s(i), with s written here in closed form, at every iteration."""

import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from vadslim.cli import UserError
from vadslim.hooks import FineTuneLR, fine_tune_config, fine_tune_schedule
from vadslim.hooks.fine_tune_schedule import is_warmup, stretch

WARMUP = {'type': 'LinearLR', 'start_factor': 1 / 3, 'by_epoch': False, 'begin': 0, 'end': 500}
COSINE = {'type': 'CosineAnnealingLR', 'T_max': 12, 'eta_min_ratio': 1e-3, 'by_epoch': True, 'begin': 0, 'end': 12}
RATES = (2e-4, 2e-5)


def config(*schedule, epochs=12):
    return {'train_cfg': {'max_epochs': epochs}, 'param_scheduler': list(schedule)}


def rates(schedule, epochs, epoch_length, start_epoch=0):
    """The rate of both parameter groups at every iteration of a run."""
    groups = [{'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': rate} for rate in RATES]
    optimizer = torch.optim.SGD(groups)
    scheduler = PARAM_SCHEDULERS.build(
        {**schedule[0], 'end': epochs}, default_args={'optimizer': optimizer, 'epoch_length': epoch_length}
    )
    if start_epoch:
        scheduler.start_at(start_epoch)
    result = []
    for _ in range((epochs - start_epoch) * epoch_length):
        result.append([group['lr'] for group in optimizer.param_groups])
        scheduler.step()
    return result


def warmup(i, width):
    return 1 / 3 + 2 / 3 * min(i / width, 1)


def cosine(progress, floor=1e-3):
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def check(found, law):
    for i, row in enumerate(found):
        assert row == pytest.approx([rate * law(i) for rate in RATES], rel=1e-9), f'iteration {i}'


@pytest.mark.parametrize('mode, factor, width', [('fine-tune', 0.1, 500), ('retrain', 0.5, 1000)])
def test_schedule_of_vad_stretched(mode, factor, width):
    schedule = fine_tune_schedule(config(WARMUP, COSINE), mode)
    # 18 epochs of 300: the warm-up crosses borders of epochs, where the cosine falls towards a floor
    check(rates(schedule, 18, 300), lambda i: factor * warmup(i, width) * cosine(i // 300 / 18))


def test_absolute_epoch_of_a_run_that_goes_on():
    schedule = fine_tune_schedule(config(WARMUP, COSINE), 'fine-tune')
    check(
        rates(schedule, 18, 1000, start_epoch=12),
        lambda i: 0.1 * warmup(i, 500) * cosine((12 + i // 1000) / 18),
    )


def test_warmup_is_at_most_a_fifth_of_the_run():
    schedule = fine_tune_schedule(config(WARMUP, COSINE), 'retrain')
    check(rates(schedule, 6, 7), lambda i: 0.5 * warmup(i, 8) * cosine(i // 7 / 6))  # 42 iterations
    check(rates(schedule, 1, 4), lambda i: 0.5 * cosine(0))  # 4 iterations: no room for one


def test_warmup_is_added_where_there_was_none():
    check(rates(fine_tune_schedule(config(), 'fine-tune'), 3, 1000), lambda i: 0.1 * warmup(i, 500))
    one = {'train_cfg': {'max_epochs': 12}, 'param_scheduler': COSINE}
    assert fine_tune_schedule(one, 'retrain') == fine_tune_schedule(config(COSINE), 'retrain')


def test_cosine_by_iteration():
    by_iteration = {'type': 'CosineAnnealingLR', 'by_epoch': False, 'eta_min': 1e-6, 'T_max': 240, 'end': 240}
    schedule = fine_tune_schedule(config(WARMUP, by_iteration), 'retrain')
    found = rates(schedule, 18, 20)  # made for 240 iterations, stretched to 360
    for i, row in enumerate(found):
        w = 0.5 * warmup(i, 72)
        assert row == pytest.approx([w * (1e-6 + (rate - 1e-6) * cosine(i / 360, 0)) for rate in RATES], rel=1e-9)


def test_cosine_converted_to_iterations():
    converted = {**COSINE, 'convert_to_iter_based': True}
    check(
        rates(fine_tune_schedule(config(WARMUP, converted), 'retrain'), 18, 20),
        lambda i: 0.5 * warmup(i, 72) * cosine(i / 360),
    )


def test_steps():
    steps = {'type': 'MultiStepLR', 'milestones': [8, 11], 'gamma': 0.1, 'by_epoch': True}
    law = lambda i: 0.5 * warmup(i, 36) * 0.1 ** sum(i // 10 >= m for m in (12, 17))  # noqa: E731
    check(rates(fine_tune_schedule(config(WARMUP, steps), 'retrain'), 18, 10), law)
    every = {'type': 'StepLR', 'step_size': 3, 'gamma': 0.5}
    law = lambda i: 0.5 * warmup(i, 36) * 0.5 ** sum(i // 10 >= m for m in (5, 9, 14))  # noqa: E731  4.5, 9, 13.5
    check(rates(fine_tune_schedule(config(every), 'retrain'), 18, 10), law)


def test_exponential_and_poly_fall_as_far():
    exponential = {'type': 'ExponentialLR', 'gamma': 0.9}
    check(
        rates(fine_tune_schedule(config(exponential), 'fine-tune'), 24, 10),
        lambda i: 0.1 * warmup(i, 48) * 0.9 ** (i // 10 / 2),
    )
    poly = {'type': 'PolyLR', 'power': 2, 'begin': 0, 'end': 13}
    found = rates(fine_tune_schedule(config(poly), 'retrain'), 24, 10)
    check(found, lambda i: 0.5 * warmup(i, 48) * (1 - min(i // 10 / 25, 1)) ** 2)


def test_what_is_a_warmup():
    assert is_warmup(WARMUP)
    assert is_warmup({'type': 'ConstantLR', 'factor': 0.1, 'end': 5})
    assert not is_warmup({'type': 'LinearLR', 'start_factor': 1.0, 'end_factor': 0.1, 'end': 12})
    assert not is_warmup({'type': 'LinearLR', 'start_factor': 0.1})  # all the run
    assert not is_warmup({'type': 'LinearLR', 'start_factor': 0.1, 'begin': 3, 'end': 12})
    assert not is_warmup(COSINE)


def test_a_schedule_after_a_warmup_keeps_its_begin():
    late = {'type': 'CosineAnnealingLR', 'begin': 4, 'end': 12, 'T_max': 8}
    assert stretch([WARMUP, late], 1.5) == [{**late, 'begin': 6, 'end': 18, 'T_max': 12}]


def test_second_fine_tune_starts_from_the_dense_schedule():
    once = fine_tune_config(config(WARMUP, COSINE), 'retrain', 18)
    assert once['train_cfg'] == {'max_epochs': 18, 'val_interval': 1}
    twice = fine_tune_config(once, 'fine-tune', 6)
    assert twice == fine_tune_config(config(WARMUP, COSINE), 'fine-tune', 6)
    assert [hook['type'] for hook in twice['custom_hooks']] == ['vadslim.FineTuneHook']


def test_validation_comes_within_a_short_run():
    cfg = {**config(COSINE), 'train_cfg': {'max_epochs': 12, 'val_interval': 12}}
    assert fine_tune_config(cfg, 'fine-tune', 6)['train_cfg']['val_interval'] == 6


@pytest.mark.parametrize(
    'cfg, mode, epochs, words',
    [
        (config(COSINE), 'finetune', 6, "'finetune': choose from fine-tune, retrain"),
        (config(COSINE), 'retrain', 0, 'at least 1'),
        ({'train_cfg': {'max_iters': 9}}, 'retrain', 6, 'max_epochs is missing'),
        (config({'type': 'ReduceOnPlateauLR'}), 'retrain', 6, 'ReduceOnPlateauLR cannot be stretched'),
    ],
)
def test_user_errors(cfg, mode, epochs, words):
    with pytest.raises(UserError, match=words):
        fine_tune_config(cfg, mode, epochs)


def test_state_goes_on_where_it_stood():
    law = fine_tune_schedule(config(WARMUP, COSINE), 'fine-tune')[0]

    def build(epoch_length=10):
        wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
        args = {'optimizer': wrapper, 'epoch_length': epoch_length}
        return PARAM_SCHEDULERS.build({**law, 'end': 18}, default_args=args)

    one, other = build(), build()
    assert isinstance(one, FineTuneLR)
    one.start_at(6)
    for _ in range(50):
        one.step()
    other.load_state_dict(one.state_dict())
    for _ in range(30):
        assert other.get_last_value() == one.get_last_value()
        one.step()
        other.step()
    half = build(epoch_length=5)  # twice the ranks
    half.load_state_dict(one.state_dict())
    assert half.get_last_value() == pytest.approx(one.get_last_value(), rel=1e-9)
