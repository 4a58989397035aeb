"""Rules: which applies, files of them, and what is said of mistakes."""

import json

import numpy as np
import pytest

from vadslim.pruning import Group, PatternError, RuleError, Rules, StructuredPruner, load_rules, rules_origin
from vadslim.registry import ALLOCATIONS

GROUPS = [
    Group('backbone.layer1.0', 'channel', 10, []),
    Group('backbone.layer1.1', 'channel', 10, []),
    Group('backbone.layer2.0', 'channel', 10, []),
    Group('decoder.heads', 'head', 8, []),
    Group('decoder.ffn', 'neuron', 10, []),
]
SCORES = {group.name: np.arange(group.num_units, dtype=float) for group in GROUPS}


def counts(rules, ratio=0.5, round_to=1, **options):
    kept = Rules(rules, **options)(GROUPS, SCORES, ratio, round_to)
    return [len(kept[group.name]) for group in GROUPS]


def test_the_first_match_wins_and_the_rest_takes_the_ratio():
    rules = [
        dict(pattern='backbone.layer1.1', ratio=0.9),
        dict(pattern='backbone.layer1.*', ratio=0.1),
        dict(kind='head', ratio=0.25),
    ]
    assert counts(rules) == [9, 1, 5, 6, 5]
    assert counts(rules, default=0) == [9, 1, 10, 6, 10]
    assert counts(rules, round_to=4) == [10, 4, 8, 8, 8]
    kept = Rules(rules)(GROUPS, SCORES, 0.5)
    assert kept['backbone.layer1.1'] == [9] and list(kept) == list(SCORES)
    assert counts([dict(pattern='kind:head', ratio=0)]) == [5, 5, 5, 8, 5]


def test_a_scale_follows_the_ratio():
    rules = [dict(kind='channel', scale=0.5), dict(kind='head', scale=0), dict(kind='neuron', scale=1e9)]
    assert counts(rules, 0.4) == [8, 8, 8, 8, 1]
    assert counts(rules, 0.8) == [6, 6, 6, 8, 1]
    assert counts(rules, 0.0) == [10, 10, 10, 8, 10]


def test_a_rule_that_never_applies_is_an_error():
    rules = [dict(pattern='backbone.*', ratio=0.1), dict(pattern='backbone.layer1.*', ratio=0.3)]
    with pytest.raises(RuleError, match=r'rule 2 \(backbone.layer1.\*\) never applies.*all its 2 Groups'):
        counts(rules)
    assert counts(rules[::-1]) == [7, 7, 9, 4, 5]


def test_a_pattern_without_a_match_names_the_nearest():
    with pytest.raises(PatternError, match=r"rules: 'backbone.layer3.0' matches none of 5 .* nearest is backbone.la"):
        counts([dict(pattern='backbone.layer3.0', ratio=0.1)])
    with pytest.raises(PatternError, match="rules: 'kind:heads' matches none of .* nearest is kind:head"):
        counts([dict(kind='heads', ratio=0.1)])


MISTAKES = [
    ('everything', 'rules is .everything., a list'),
    (['everything'], "rule 1 is 'everything', an object"),
    (
        [dict(kind='head', ratio=0.1), dict(kind='head', ration=0.1)],
        "rule 2 has the key 'ration'; the nearest is ratio",
    ),
    ([dict(ratio=0.1)], 'rule 1 has neither pattern and kind; one is needed'),
    ([dict(kind='head', pattern='*', ratio=0.1)], 'rule 1 has both pattern and kind; one is needed'),
    ([dict(kind='head')], 'rule 1 has neither ratio and scale'),
    ([dict(kind='head', ratio=1)], 'rule 1: ratio is 1; it has to be the fraction to remove, from 0 up to'),
    ([dict(kind='head', ratio='a lot')], "rule 1: ratio is 'a lot'; it has to be"),
    ([dict(kind='head', ratio=float('nan'))], 'rule 1: ratio is nan'),
    ([dict(kind='head', ratio=True)], 'rule 1: ratio is True'),
    ([dict(kind='head', scale=-1)], 'rule 1: scale is -1; it has to be a number of at least 0'),
    ([dict(kind=['head'], ratio=0.1)], r"rule 1: \['head'\] is not the name of a Group or a kind"),
]


@pytest.mark.parametrize(('rules', 'message'), MISTAKES)
def test_mistakes(rules, message, tmp_path):
    with pytest.raises(RuleError, match=message):
        Rules(rules)
    if isinstance(rules, list) and 'nan' not in message:
        (tmp_path / 'rules.json').write_text(json.dumps(rules))
        with pytest.raises(RuleError, match=f'rules .*rules.json: {message}'):
            load_rules(tmp_path / 'rules.json')


def test_a_default_is_checked():
    with pytest.raises(RuleError, match='default is 1.5; it has to be the fraction'):
        Rules([], default=1.5)


FILES = {
    'list.yaml': '- pattern: backbone.layer1.*\n  ratio: 0.1\n- {kind: head, ratio: 0.25}\n',
    'whole.yml': 'default: 0.5\nrules:\n- pattern: backbone.layer1.*\n  ratio: 1.0e-1\n- {kind: head, ratio: 0.25}\n',
    'list.json': '[{"pattern": "backbone.layer1.*", "ratio": 1e-1}, {"kind": "head", "ratio": 0.25}]',
}


@pytest.mark.parametrize('name', FILES)
def test_files(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    allocation = load_rules(tmp_path / name)
    kept = ALLOCATIONS.build(allocation)(GROUPS, SCORES, 0.5)
    assert [len(kept[group.name]) for group in GROUPS] == [9, 9, 5, 6, 5]
    assert StructuredPruner(0.5, allocation=allocation).allocation.rules[1].ratio == 0.25


def test_where_rules_come_from_changes_nothing(tmp_path):
    path = tmp_path / 'rules.yaml'
    for text, expected in (
        ('rules: []\n', None),
        ('rules: []\nsensitivity: {file: ../s/sensitivity.json}\n', {}),
        ('rules: []\nsensitivity: {file: ../s/sensitivity.json, metrics: {L2: false, mAP: true}}', {'L2': 0, 'mAP': 1}),
    ):
        path.write_text(text)
        assert load_rules(path) == {'type': 'rules', 'rules': []}
        origin = rules_origin(path)
        assert (origin and origin.metrics) == expected
    assert origin.file == tmp_path / '../s/sensitivity.json'


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.yaml', 'rules: []\nsensitivity: here', "sensitivity is 'here'; an object with the key file"),
        ('a.yaml', 'rules: []\nsensitivity: {file: a, metrics: [L2]}', "metrics is \\['L2'\\]; names, and whether"),
        ('a.json', '[{"kind": "head", ]', 'not a JSON or YAML file'),
        ('a.yaml', 'rules: [}', 'not a JSON or YAML file'),
        ('a.yaml', '', 'rules is None, a list'),
        ('a.yaml', 'rule: []', "the file has the key 'rule'; the nearest is rules"),
        ('a.yaml', 'default: 0.1', 'the file has no key rules'),
        ('a.yaml', '- kind: head\n  ratio: 1e-1\n', "ratio is '1e-1'"),  # YAML 1.1 reads a text here
    ],
)
def test_damaged_files_are_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(RuleError, match=f'rules .*{name}: .*{message}') as caught:
        load_rules(tmp_path / name)
    assert '\n' not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(RuleError, match='rules .*no.yaml: No such file'):
        load_rules(tmp_path / 'no.yaml')
