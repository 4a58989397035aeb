"""From a config and the command line to stages: what counts more, what a stage starts from, and what is refused."""

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from vadslim.cli import UserError
from vadslim.staged.flags import overrides_of, parse_args
from vadslim.staged.schema import nest
from vadslim.staged.settings import Plan, initial_checkpoint, resolve
from vadslim.staged.tasks import INK

ROOT = Path(__file__).resolve().parents[2]
# Setting -> five values: in the checkpoint, the base, the file, the stage, on the command line (with its option).
VALUES = {
    'training.lr': ('--lr', 0.1, 0.2, 0.3, 0.4, 0.5),
    'training.epochs': ('--epochs', 1, 2, 3, 4, 5),
    'training.batch_size': ('--batch-size', 1, 2, 3, 4, 5),
    'training.save_dir': ('--save_dir', 'a', 'b', 'c', 'd', 'e'),
    'training.weight_decay': ('', 0.1, 0.2, 0.3, 0.4, 0.5),
    'training.total_steps': ('', 1, None, 3, 4, 5),
    'training.scheduler': ('', 'cosine', 'constant', 'onecycle', 'cosine', 'constant'),
    'training.loss_weights.tangent': ('', 2.0, 3.0, 4.0, 5.0, 6.0),
    'training.curriculum.enabled': ('', True, False, True, False, True),
    'training.curriculum.end_stage': ('', 1, 2, 3, 4, 5),
    'model.embed_dim': ('', 4, 8, 12, 16, 20),
    'data.num_workers': ('--num-workers', 0, 1, 2, 3, 5),
    'data.curriculum_stage': ('', 1, 2, 3, 4, 5),
    'logging.tensorboard_dir': ('', 'a', 'b', None, 'd', 'e'),
    'device.type': ('--device', 'cpu', 'cuda', None, 'cuda', 'cpu'),
    'seed': ('--seed', 1, 2, 3, 4, 5),
}


def write(path, data):
    path.write_text(json.dumps(data))  # is YAML, and quicker to write
    return path


def at(settings, key):
    for part in key.split('.'):
        settings = settings[part]
    return settings


@pytest.fixture
def config(tmp_path):
    def writer(text, name='c.yaml'):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name

    return writer


# --- what counts more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('key', VALUES)
def test_precedence(key, tmp_path):
    """All combinations of the five levels: the highest that says something wins, its neighbours' values stay."""
    option, *values = VALUES[key]
    beside = next(other for other in INK.settings if other not in VALUES)  # says that the rest is left alone
    for said in itertools.product((False, True), repeat=5):
        saved, base, file, stage, line = ({key: value} if on else {} for on, value in zip(said, values))
        write(tmp_path / 'base.yaml', nest(base))
        entry = {'name': 'only', **nest(stage)}
        if key == 'training.epochs' and said[3]:
            entry = {'name': 'only', 'epochs': values[3]}
        write(tmp_path / 'c.yaml', {'extends': 'base.yaml', **nest(file), 'stages': [entry]})
        text = 'null' if values[4] is None else str(values[4])
        argv = ([option, text] if option else ['--set', f'{key}={text}']) if line else []
        overrides = overrides_of(parse_args(['c.yaml', *argv]))
        checkpoint = (nest(saved), 'only') if saved else (None, None)
        (made,) = resolve(tmp_path / 'c.yaml', overrides, *checkpoint).stages
        wanted = next((value for on, value in reversed(list(zip(said, values))) if on), INK.settings[key].default)
        assert at(made.settings, key) == wanted, said
        assert at(made.settings, beside) == INK.settings[beside].default


def test_all_other_settings_stay_with_each_level(config):
    config('training: {curriculum: {start_stage: 1}}', 'base.yaml')
    file = config("""
        extends: base.yaml
        training: {curriculum: {epochs_per_stage: 3}}
        stages:
          - {name: a, training: {curriculum: {enabled: true}}}
          - {name: b}
    """)
    a, b = resolve(file, {'training.curriculum.end_stage': '2'}).stages
    assert a.settings['training']['curriculum'] == {
        'enabled': True,
        'start_stage': 1,
        'end_stage': 2,
        'epochs_per_stage': 3,
    }
    assert b.settings['training']['curriculum']['enabled'] is False
    assert a.settings['training']['loss_weights'] is not b.settings['training']['loss_weights']


def test_the_command_line_for_one_stage(config):
    file = config('stages: [{name: a, epochs: 3}, {name: b, training: {lr: 0.1}}]')
    over = {
        'training.lr': '0.5',
        'stages.b.training.lr': '0.25',
        'stages.a.epochs': '9',
        'stages.b.init_from': 'x.pth',
        'stages.a.training.save_dir': 'elsewhere',
    }
    a, b = resolve(file, over).stages
    assert (a.settings['training']['lr'], b.settings['training']['lr']) == (0.5, 0.25)
    assert (a.settings['training']['epochs'], b.settings['training']['epochs']) == (9, 50)
    assert (a.init_from, a.init_given, b.init_from, b.init_given) == (None, False, 'x.pth', True)
    assert (a.folder, b.folder) == (Path('elsewhere/a'), Path('checkpoints/b'))


def test_a_config_without_stages_is_one(config):
    (stage,) = resolve(config('training: {epochs: 3}')).stages
    assert (stage.name, stage.kind, stage.folder) == ('train', 'train', Path('checkpoints/train'))
    assert stage.settings['training']['epochs'] == 3


def test_settings_are_plain_data(config):
    (stage,) = resolve(config('stages: [{name: a, kind: prune, options: {ratio: 0.5, targets: [x]}}]')).stages
    assert json.loads(json.dumps(stage.settings)) == stage.settings
    assert (stage.kind, stage.options) == ('prune', {'ratio': 0.5, 'targets': ['x']})
    assert set(stage.settings) == {'task', 'seed', 'model', 'training', 'data', 'logging', 'device'}


# --- the shipped configs ------------------------------------------------------------------------------------


def test_default_yaml_says_every_setting():
    data = yaml.safe_load((ROOT / 'configs' / 'staged' / 'default.yaml').read_text())
    said = {key: value for key, value in data.items() if key not in ('task', 'stages')}
    said['training'] = {**said['training'], 'lr': 1e-3, 'weight_decay': 1e-4}  # texts to a YAML 1.1 reader
    defaults = INK.defaults()
    for key in ('training.epoch_length', 'training.batch_size', 'data.num_workers'):  # smaller, for two cores
        section, name = key.split('.')
        assert said[section][name] < defaults[key]
        defaults[key] = said[section][name]
    assert INK.check(said, str) == defaults


def test_full_yaml_is_the_predecessors_run():
    structural, dense = resolve(ROOT / 'configs' / 'staged' / 'full.yaml').stages
    one, two = structural.settings, dense.settings
    assert (structural.name, structural.init_from, dense.name, dense.init_from) == (
        'structural',
        None,
        'dense',
        'best_structural.pth',
    )
    assert (one['training']['epochs'], two['training']['epochs']) == (30, 60)
    assert (one['model']['full_heads'], two['model']['full_heads']) == (False, True)
    assert (one['training']['lr'], two['training']['lr']) == (1e-3, 5e-4)
    assert (one['training']['mask_ratio'], one['data']['curriculum_stage']) == (0.6, 2)
    assert {(s['training']['batch_size'], s['training']['epoch_length']) for s in (one, two)} == {(32, 10_000)}
    assert one['training']['curriculum']['enabled'] is False
    assert two['training']['curriculum'] == {'enabled': True, 'start_stage': 0, 'end_stage': 6, 'epochs_per_stage': 10}


def test_default_yaml_reaches_every_stage_of_its_curriculum():
    structural, dense = resolve(ROOT / 'configs' / 'staged' / 'default.yaml').stages
    assert (structural.settings['training']['epochs'], dense.settings['training']['epochs']) == (30, 60)
    curriculum = dense.settings['training']['curriculum']
    assert (curriculum['start_stage'], curriculum['end_stage']) == (0, 6)
    assert 6 * curriculum['epochs_per_stage'] < 60


def test_neither_torch_nor_mmengine_is_needed():
    script = """
        import sys
        sys.modules.update(dict.fromkeys(('torch', 'mmengine', 'numpy')))
        from vadslim.staged import flags, settings, sweep
        print(len(settings.resolve('configs/staged/full.yaml', {'training.lr': '1'}).stages))
    """
    command = [sys.executable, '-c', textwrap.dedent(script)]
    result = subprocess.run(command, cwd=ROOT, env={'PYTHONPATH': 'projects'}, capture_output=True, text=True)
    assert result.stdout == '2\n', result.stderr


# --- errors -------------------------------------------------------------------------------------------------

# one typo for each section, and for what stands beside them
TYPOS = {
    'model: {embed_dims: 3}': 'model.embed_dims: there is no such setting; the nearest is model.embed_dim',
    'model: {fullheads: true}': 'model.fullheads: .* model.full_heads',
    'training: {learning_rates: 1}': 'training.learning_rates: .* training.',
    'training: {epoch: 1}': 'training.epoch: .* training.epochs',
    'training: {batchsize: 1}': 'training.batchsize: .* training.batch_size',
    'training: {loss_weights: {skelton: 1}}': 'training.loss_weights.skelton: .* training.loss_weights.skeleton',
    'training: {curriculum: {enable: true}}': 'training.curriculum.enable: .* training.curriculum.enabled',
    'data: {workers: 1}': 'data.workers: .* data.num_workers',
    'data: {lr: 1}': 'data.lr: .* training.lr',
    'logging: {tensorboard: x}': 'logging.tensorboard: .* logging.tensorboard_dir',
    'device: {typ: cpu}': 'device.typ: .* device.type',
    'device: cpu': "device is 'cpu'; a mapping of settings is needed",
    'trainig: {lr: 1}': 'trainig: .* training',
    'stage: []': 'stage: .* stages',
    'extend: x.yaml': 'extend: .* extends',
    'sede: 1': 'sede: .* seed',
    'seed: true': 'seed is true; a whole number of at least 0 and at most 2147483647 is needed',
    'task: inc': "task is 'inc'; known are ink",
}


@pytest.mark.parametrize('text', TYPOS)
def test_typos_in_a_file(config, text):
    file = config(f'# the second line\n{text}\n')
    with pytest.raises(UserError, match=f'^{file}:2: {TYPOS[text]}'):
        resolve(file)


@pytest.mark.parametrize('text', [text for text in TYPOS if text.split(':')[0] in INK.sections and '{' in text])
def test_typos_in_a_stage(config, text):
    file = config(f'stages:\n  - name: dense\n    {text}\n')
    with pytest.raises(UserError, match=f'^{file}:3: stages.dense: {TYPOS[text]}'):
        resolve(file)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('epoch: 3', ':2: stages.a: epoch: there is no such setting; the nearest is epochs'),
        ('init_form: x', 'stages.a: init_form: .* init_from'),
        ('lr: 1e-3', 'stages.a: lr: .* training.lr'),
        ('task: ink', 'stages.a: task: there is no such setting'),
        ('epochs: many', ":2: stages.a: training.epochs is 'many'; a whole number of at least 1 is needed"),
        ('epochs: null', ':2: stages.a: training.epochs is null'),
        ('epochs: 0', ':2: stages.a: training.epochs is 0'),
        ('kind: trian', "stages.a: kind is 'trian'; one of .* is needed; the nearest is train"),
        ('kind: null', 'stages.a: kind is None; one of train, prune, sparse, test, analyse'),
        ('init_from: 3', 'stages.a: init_from is 3; the name of a checkpoint is needed'),
        ('options: {a: 1}', r"stages.a: options is \{'a': 1\}; a mapping, for a stage that is not of kind train"),
        ('{kind: prune, options: [1]}', r'stages.a: options is \[1\]; a mapping'),
        (
            'training: {curriculum: {start_stage: 7}}',
            'stages.a: training.curriculum.start_stage is 7; end_stage 6 comes',
        ),
        ('model: {embed_dim: 130}', 'stages.a: model.embed_dim is 130; a multiple of the 4 attention heads'),
        ('model: {decoder_dim: 18}', 'stages.a: model.decoder_dim is 18; a multiple of the 4 attention heads'),
        ('data: {img_size: 128}', 'stages.a: data.img_size is 128; strokes are drawn on 64 x 64 pixels'),
    ],
)
def test_entries_that_are_refused(config, entry, message):
    entry = entry.strip('{}') if entry.startswith('{') else entry
    file = config(f'stages:\n  - {{name: a, {entry}}}\n')
    with pytest.raises(UserError, match=f'^{file}:2: .*{message.removeprefix(":2: ")}') as error:
        resolve(file)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'training.lr': 'fast'}, '^--lr fast: a number above 0 is needed'),
        ({'training.mask_ratio': '1'}, '^--set training.mask_ratio 1: a number of at least 0 and below 1 is needed'),
        ({'training.lrr': '1'}, '^--set training.lrr: there is no such setting; the nearest is training.lr$'),
        ({'training': '1'}, '^--set training: a mapping of settings; set them one by one'),
        ({'stages.c.training.lr': '1'}, '^--set stages.c.training.lr: there is no stage c; the nearest is'),
        ({'stages.a': '1'}, '^--set stages.a: one setting of the stage is needed'),
        ({'device.type': 'gpu'}, '^--device gpu: one of cuda, cpu, or null is needed'),
        ({'task': 'x'}, '^--set task: there is no such setting'),
    ],
)
def test_command_lines_that_are_refused(config, overrides, message):
    with pytest.raises(UserError, match=message):
        resolve(config('stages: [{name: a}, {name: b}]'), overrides)


@pytest.mark.parametrize('key', ['training.lr', 'stages.a.training.lr', 'stages.a.epochs', 'training.lrr'])
def test_errors_name_the_option_that_was_given(config, key):
    given = overrides_of(parse_args(['c.yaml', '--set', f'{key}=abc']))
    with pytest.raises(UserError, match=f'^--set {key}( abc: a|: there is no)'):
        resolve(config('stages: [{name: a}]'), given)


def test_names_that_differ_in_capitals_between_files(config):
    config('stages: [{name: a}]', 'base.yaml')
    with pytest.raises(UserError, match='two stages differ in capitals only; the stages are a, A'):
        resolve(config('extends: base.yaml\nstages: [{name: A}]'))


def test_choosing_stages(config):
    plan = resolve(config('stages: [{name: a}, {name: b}]'))
    assert [stage.name for stage in plan.select(run_all=True)] == ['a', 'b']
    assert [stage.name for stage in plan.select('b')] == ['b']
    with pytest.raises(UserError, match='c.yaml: give --stage NAME or --run-all-stages; the stages are a, b'):
        plan.select()
    with pytest.raises(UserError, match='--stage c: .* has no such stage; the stages are a, b'):
        plan.select('c')
    assert [stage.name for stage in resolve(config('')).select()] == ['train']


# --- resume -------------------------------------------------------------------------------------------------


def test_resume_needs_the_checkpoint_only(config):
    file = config('stages: [{name: a, kind: train, training: {lr: 0.1}}, {name: b}]')
    ran = resolve(file, {'training.lr': '0.5', 'training.save_dir': 'out'}).stages[0]
    (again,) = resolve(None, {}, ran.settings, 'a').stages
    assert again == ran
    (changed,) = resolve(None, {'training.lr': '0.7'}, ran.settings, 'a').stages
    assert changed.settings['training']['lr'] == 0.7


def test_a_saved_list_of_stages_is_not_applied_again(config):
    """The command line of the first run counts more than the stage's entry, which old checkpoints hold too."""
    saved = {'training': {'lr': 0.5}, 'stages': [{'name': 'a', 'training': {'lr': 0.1}, 'init_from': 'x.pth'}]}
    (stage,) = resolve(None, {}, saved, 'a').stages
    assert stage.settings['training']['lr'] == 0.5 and stage.init_from == 'x.pth'


def test_only_the_resumed_stage_has_the_saved_settings(config):
    file = config('stages: [{name: a}, {name: b}]')
    a, b = resolve(file, {}, {'model': {'full_heads': False}}, 'a').stages
    assert (a.settings['model']['full_heads'], b.settings['model']['full_heads']) == (False, True)


def test_old_configs_are_read_with_a_word(config):
    saved = {
        'model': {'embed_dim': 64, 'num_layers': 2},
        'training': {'mask_ratio': 0.5, 'lr': '1e-3', 'scheduler': 'OneCycleLR', 'fancy': {'a': 1}},
        'data': None,
    }
    plan = resolve(None, {}, saved, 'structural')
    (stage,) = plan.stages
    assert stage.settings['model']['embed_dim'] == 64
    assert stage.settings['training']['mask_ratio'] == 0.5 and stage.settings['training']['scheduler'] == 'onecycle'
    assert [note.partition(';')[0] for note in plan.notes] == [
        "the checkpoint: training.scheduler is 'OneCycleLR'",
        'the checkpoint: training.fancy: there is no such setting now',
    ]


def test_a_checkpoint_without_a_config(config):
    (stage,) = resolve(None, {}, {}, 'dense').stages
    assert stage.settings == {'task': 'ink', **nest(INK.defaults())}


@pytest.mark.parametrize(
    ('stage', 'message'),
    [
        ('../../etc', 'which is no name of a stage'),
        ('c', 'has no stage c, which the checkpoint is of; the stages are a'),
    ],
)
def test_resumed_stages_that_are_none(config, stage, message):
    with pytest.raises(UserError, match=message):
        resolve(config('stages: [{name: a}]'), {}, {'seed': 1}, stage)


def test_nothing_to_go_by():
    with pytest.raises(UserError, match=r'a config is needed \(--config FILE\), or a checkpoint'):
        resolve(None)


# --- what a stage starts from -------------------------------------------------------------------------------


@pytest.fixture
def plan(config, tmp_path, monkeypatch):
    """Stages structural, dense (init_from best_structural.pth) and last, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    file = config("""
        stages:
          - name: structural
          - {name: dense, init_from: best_structural.pth}
          - {name: last, init_from: random}
    """)

    def planner(**overrides) -> Plan:
        return resolve(file, overrides)

    return planner


def touch(name):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('x')
    return path


def test_init_from_precedence(plan):
    """The command line, then the stage before, then the entry."""
    own, before = touch('checkpoints/structural/checkpoint_best.pth'), Path('before.pth')
    given = touch('given.pth')
    dense = plan().stages[1]
    assert initial_checkpoint(plan(), dense) == own
    assert initial_checkpoint(plan(), dense, before) == before
    explicit = plan(init_from='given.pth')
    assert [initial_checkpoint(explicit, stage, before) for stage in explicit.stages] == [given] * 3
    one = plan(**{'stages.dense.init_from': 'given.pth'})
    assert [initial_checkpoint(one, stage, before) for stage in one.stages] == [before, given, None]


def test_random_is_no_checkpoint(plan):
    structural, _, last = plan().stages
    assert initial_checkpoint(plan(), last, 'before.pth') is None
    assert initial_checkpoint(plan(), structural) is None
    again = plan(init_from='random')
    assert initial_checkpoint(again, again.stages[1], 'before.pth') is None


def test_a_literal_file_counts_more_than_a_name(plan):
    touch('checkpoints/structural/checkpoint_best.pth')
    literal = touch('best_structural.pth')
    assert initial_checkpoint(plan(), plan().stages[1]) == literal


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('best_structural.pth', 'checkpoints/structural/checkpoint_best.pth'),
        ('checkpoints/best_structural.pth', 'checkpoints/structural/checkpoint_best.pth'),
        ('structural', 'checkpoints/structural/checkpoint_best.pth'),
        ('structural_epoch15.pth', 'checkpoints/structural/checkpoint_epoch15.pth'),
        ('best_dense_model.pth', 'checkpoints/dense/checkpoint_best.pth'),
        ('best_gone.pth', 'checkpoints/gone/checkpoint_best.pth'),  # of a config before this one
    ],
)
def test_old_names(plan, name, found):
    explicit = plan(init_from=name)
    with pytest.raises(
        UserError, match=rf'--init_from {name}: no such file, and stage \w+ has left no {found}; run it'
    ):
        initial_checkpoint(explicit, explicit.stages[1])
    touch(found)
    assert initial_checkpoint(explicit, explicit.stages[1]) == Path(found)


def test_the_folder_of_the_other_stage_counts(plan):
    one = plan(**{'stages.structural.training.save_dir': 'elsewhere'})
    file = touch('elsewhere/structural/checkpoint_best.pth')
    assert initial_checkpoint(one, one.stages[1]) == file


def test_files_that_are_missing(plan):
    explicit = plan(init_from='nothing.pth')
    with pytest.raises(UserError, match=r'^--init_from nothing.pth: no such file$'):
        initial_checkpoint(explicit, explicit.stages[0])
    with pytest.raises(UserError, match=r'^stages.dense: init_from best_structural.pth: no such file, and stage'):
        initial_checkpoint(plan(), plan().stages[1])
