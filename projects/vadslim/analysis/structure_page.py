"""A page that compares models: a table that sorts, what each layer has left as a heat map, and each model's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from vadslim.analysis import html_page, structure_summary
from vadslim.analysis.model_comparison import HEAVY, LIGHT
from vadslim.analysis.numbers import human
from vadslim.analysis.structure_summary import Model, layers_of, ranges, ratio_of, total_of
from vadslim.files import StrPath, atomic_write

if TYPE_CHECKING:
    pass

Number = float | None

#: of a layer, and of its parts
PANELS = {'ratio': 'Layers', 'attention_ratio': 'Attention', 'mlp_ratio': 'MLP'}
PARTS = {part: part for part in ('total', *structure_summary.PARTS)} | {'total': 'parameters', 'mlp': 'MLP'}


def _share(part: str) -> Callable[[Model], Number]:
    return lambda model: 100 * model['parts'][part] / total_of(model) if total_of(model) else None


def _percent(key: str) -> Callable[[Model], Number]:
    return lambda model: None if model.get(key) is None else 100 * model[key]


def _amount(key: str) -> Callable[[Model], Number]:
    return lambda model: None if model.get(key) is None else len(model[key])


def _removed(model: Model) -> Number:
    ratio = ratio_of(model)
    return None if ratio is None else 100 * ratio


def _empty(model: Model) -> Number:
    return max(0, int(model['num_zero_layers']) - (model['removed_layers'] or 0))


#: heading -> what stands below it, and how it is written
COLUMNS: dict[str, tuple[Callable[[Model], Number], Callable[[float], str]]] = {
    'parameters': (total_of, human),
    'removed %': (_removed, '{:.2f}'.format),
    'bytes': (lambda model: model.get('size_bytes'), lambda value: human(value, 'B')),
    'layers': (layers_of, str),
    'gone': (lambda model: model['removed_layers'], str),
    'empty': (_empty, str),
    'heavy': (_amount('heavy_layers'), str),
    'light': (_amount('light_layers'), str),
    'attention %': (_share('attention'), '{:.1f}'.format),
    'MLP %': (_share('mlp'), '{:.1f}'.format),
    'zeros %': (_percent('sparsity'), '{:.1f}'.format),
    'zero units %': (_percent('unit_sparsity'), '{:.1f}'.format),
}


def write_page(path: StrPath, models: Sequence[Model], title: str = '') -> None:
    """Writes the page of some models; see :func:`render_page`."""
    text = render_page(models, title)
    with atomic_write(path) as file:
        file.write(text)


def render_page(models: Sequence[Model], title: str = '') -> str:
    """The page of some models, largest first.

    Args:
        models: at least one, as ``structure_summary`` has them.
        title: of the page.
    """
    from markupsafe import Markup

    models = sorted(models, key=lambda model: (-total_of(model), model['name']))
    known = {name: [of(model) for model in models] for name, (of, _) in COLUMNS.items()}
    columns = [name for name, values in known.items() if any(value is not None for value in values)]
    rows = []
    for number, model in enumerate(models):
        values = [known[name][number] for name in columns]
        texts = ['' if value is None else COLUMNS[name][1](value) for name, value in zip(columns, values)]
        rows.append((model['name'], _kept(model), _strip(model), list(zip(values, texts))))
    compared = [(number, model) for number, model in enumerate(models) if model['has_comparison']]
    width = max((layer['layer_idx'] + 1 for _, model in compared for layer in model['layers']), default=0)
    return html_page.render(
        _PAGE,
        title=title or (f'{models[0]["name"]}: its layers' if len(models) == 1 else f'{len(models)} models compared'),
        cards=_cards(models),
        columns=columns,
        rows=rows,
        maps=[(name, Markup(_map(compared, key, width))) for key, name in PANELS.items()] if width else [],
        width=width,
        stacks=_stacks([model for _, model in compared]),
        missing=len(models) - len(compared),
        unplaced=any(_not_listed(model) for _, model in compared),
        details=[(model['name'], _line(model), _about(model), Markup(_layers(model))) for model in models],
        heavy=f'{HEAVY:.0%}',
        light=f'{LIGHT:.0%}',
    )


def _cards(models: Sequence[Model]) -> list[tuple[str, str]]:
    def span(values: Sequence[float], text: Callable[[float], str]) -> str:
        return ' to '.join(dict.fromkeys(text(value) for value in (min(values), max(values))))

    cards = [('models', str(len(models))), ('parameters', span([total_of(model) for model in models], human))]
    ratios = [ratio for model in models if (ratio := ratio_of(model)) is not None]
    if ratios:
        cards.append(('parameters removed', span(ratios, '{:.1%}'.format)))
    return [*cards, ('layers empty or gone', str(sum(model['num_zero_layers'] for model in models)))]


# --- what is left of layers ---------------------------------------------------------------------------------


def _shade(layer: Mapping[str, Any], key: str = 'ratio') -> str:
    """The class of a cell: z is nothing left, h heavy, then k2 to k10 by tenths of what is left; '' not known."""
    ratio = layer[key]
    if ratio is None:
        return ''
    if ratio >= 1 or (layer['is_zero'] and key == 'ratio'):
        return 'z'
    return 'h' if ratio > HEAVY else f'k{min(10, int(10 * (1 - ratio) + 1e-9))}'


def _kept(model: Model) -> Number:
    """The mean of what the layers have left, per cent, those that are gone included; None without a comparison."""
    left = [1 - layer['ratio'] for layer in model['layers'] if layer['ratio'] is not None]
    return 100 * sum(left) / (len(left) + _not_listed(model)) if left else None


def _not_listed(model: Model) -> int:
    """How many layers are gone of which nothing tells where they were."""
    listed = sum(1 for layer in model['layers'] if layer['is_zero'])
    return max(0, int(model['num_zero_layers']) - listed)


def _strip(model: Model) -> str:
    """A gradient with a piece for each layer; neighbours of one shade are one piece, those not listed come last."""
    shades = [_shade(layer) for layer in model['layers']]
    if not any(shades):
        return ''
    shades += [''] * _not_listed(model)
    ends = [place for place in range(1, len(shades) + 1) if shades[place : place + 1] != shades[place - 1 : place]]
    stops = (f'var(--{shades[end - 1] or "head"}) 0 {100 * end / len(shades):.4g}%' for end in ends)
    return f'linear-gradient(90deg,{",".join(stops)})'


def _map(models: Sequence[tuple[int, Model]], key: str, width: int) -> str:
    """Rows of a heat map: what each layer has left, per cent."""
    rows = []
    for number, model in models:
        cells = [''] * width
        for layer in model['layers']:
            shade = _shade(layer, key)
            if shade:
                cells[layer['layer_idx']] = f'<td class={shade}>{0 if shade == "z" else _whole(layer[key])}</td>'
        name = f'<tr><th scope=row class=name><a href="#m{number}">{_breakable(model["name"])}</a></th>'
        rows.append(name + ''.join(cell or '<td></td>' for cell in cells) + '</tr>')
    return '\n'.join(rows)


def _stacks(models: Sequence[Model]) -> list[tuple[str, str]]:
    """(numbers of layers, stack) where there are several stacks, and they are the same in all models."""
    found: dict[str, list[int]] = {}
    names: dict[int, str] = {}
    for layer in (layer for model in models for layer in model['layers']):
        stack = layer['name'].rpartition('.')[0]
        if names.setdefault(layer['layer_idx'], stack) != stack:
            return []
        found.setdefault(stack, []).append(layer['layer_idx'])
    return [(ranges(numbers), stack) for stack, numbers in found.items()] if len(found) > 1 else []


def _whole(ratio: float) -> int:
    """What is left, in whole per cent; 0 and 100 are exact."""
    kept = 100 * (1 - ratio)
    return min(99, max(1, round(kept))) if 0 < kept < 100 else round(kept)


def _breakable(name: str) -> str:
    return str(html_page.breakable(name))


# --- one model ----------------------------------------------------------------------------------------------


def _line(model: Model) -> str:
    """What is said of a model before it is unfolded."""
    ratio = ratio_of(model)
    removed = '' if ratio is None else f', {ratio:.2%} removed'
    return f'{human(total_of(model))} parameters{removed}, {layers_of(model)} layers'


def _about(model: Model) -> list[tuple[str, str]]:
    rows = [(name.replace('_', ' '), text) for name, text in model.get('about', {}).items()]
    rows.append(('parameters', f'{total_of(model):,}'))
    if model['has_comparison']:
        rows.append(('of the original', f'{model["pruning"]["original_params"]:,}'))
    if model['has_structure']:
        rows += [(name, f'{model["params"][key]:,}') for name, key in (('embedding', 'embedding'), ('head', 'lm_head'))]
    rows += [(f'in layers: {PARTS[part]}', f'{count:,}') for part, count in model['parts'].items() if count]
    if model['removed_layers']:
        rows.append(('layers gone', str(model['removed_layers'])))
    empty = [layer['layer_idx'] for layer in model['layers'] if layer['is_zero']]
    lists = {'empty': empty, 'heavy': model.get('heavy_layers'), 'light': model.get('light_layers')}
    return rows + [(f'{word} layers', ranges(indices)) for word, indices in lists.items() if indices]


def _layers(model: Model) -> str:
    """The table of a model's layers."""
    layers = model['layers']
    known = ('layer_idx', 'name', *PARTS, *PANELS, 'sparsity', 'unit_sparsity')
    heads = [name for name in known if _is_shown(layers, name)]
    words = {
        'layer_idx': 'layer',
        **PARTS,
        'ratio': 'left',
        'attention_ratio': 'attention left',
        'mlp_ratio': 'MLP left',
        'sparsity': 'zeros',
        'unit_sparsity': 'zero units',
    }
    classes = {'name': ' class=kind'}
    top = ''.join(f'<th scope=col{classes.get(head, "")}>{words.get(head, head)}</th>' for head in heads)
    body = '\n'.join(_rows(layers, heads))
    return f'<thead><tr>{top}<th scope=col class=kind>mark</th></tr></thead>\n<tbody>\n{body}\n</tbody>'


def _is_shown(layers: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column tells anything."""
    known = [layer[name] for layer in layers if layer[name] is not None]
    return any(known) if name in ('name', 'norm', 'conv', 'other') else bool(known)


def _rows(layers: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> Iterator[str]:
    for layer in layers:
        cells = []
        for head in heads:
            value = layer[head]
            if value is None:
                cells.append('<td></td>')
            elif head == 'layer_idx':
                cells.append(f'<th scope=row>{value}</th>')
            elif head == 'name':
                cells.append(f'<td class=kind>{escape(value)}</td>')
            elif 'sparsity' in head:
                cells.append(f'<td>{value:.1%}</td>')
            elif head in PANELS:
                cells.append(f'<td class={_shade(layer, head)}>{1 - value:.1%}</td>')
            else:
                cells.append(f'<td>{value:,}</td>')
        yield f'<tr>{"".join(cells)}<td class=kind>{_mark(layer)}</td></tr>'


def _mark(layer: Mapping[str, Any]) -> str:
    """What stands out about a layer."""
    if layer['is_zero']:
        return 'empty' if layer['total'] else 'gone'
    ratio = layer['ratio']
    return '' if ratio is None else 'heavy' if ratio > HEAVY else 'light' if ratio < LIGHT else ''


_PAGE = """{% extends 'page' %}
{% from 'cells' import pairs, table %}
{% block title %}{{ title }}{% endblock %}
{% block style %}
:root { --z: #e5a3a6; --h: #f0cf9a{% for tenth in range(11) %};
 --k{{ tenth }}: color-mix(in srgb, var(--after) {{ 5 * tenth }}%, var(--page)){% endfor %} }
@media screen and (prefers-color-scheme: dark) {
 :root { --z: #8a2f36; --h: #7a5a1e }
}
.z { background: var(--z) }
.h { background: var(--h) }
{% for tenth in range(11) %}
.k{{ tenth }} { background: var(--k{{ tenth }}) }
{% endfor %}
@media screen and (min-width: 40.1rem) {
 .name { min-width: 11rem }
}
.strip { display: block; width: 6rem; height: 1.1em; border: 1px solid var(--line) }
.map td, .map thead th { padding: .28rem .1rem; min-width: 1.72rem; text-align: center; font-size: .72rem }
.map thead .name { text-align: left; padding: .28rem .55rem }
.legend span { display: inline-block; padding: 0 .5em; margin-right: .3em; color: var(--text) }
.model .scroll { margin: .5rem 0 1rem }
.model > div { scroll-margin-top: 3rem }
.model summary { overflow-wrap: anywhere }
@media print {
 .map td, .map thead th { font-size: .8em; min-width: 0; padding: .1rem }
 .strip { width: 4rem }
}
{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
<div class="cards">
{% for name, value in cards %}
<div class="card"><span class="soft">{{ name }}</span><b>{{ value }}</b></div>
{% endfor %}
</div>
<h2>Models</h2>
<p class="soft">Headings sort (a click, or Enter). Gone layers are those the original has more; empty ones hold nothing
but norms; heavy ones lost more than {{ heavy }} of their parameters, light ones less than {{ light }}. Attention and
MLP are shares of all parameters. {{ 'Left is what the layers have left, on average, and a picture of it.' if maps }}
{%- if missing and maps %} For {{ missing }} of the models there is no comparison with an original.{% endif %}</p>
{% set ns = namespace(columns=[('model', 'name')]) %}
{% for column in columns %}
{% set ns.columns = ns.columns + [(column, '')] + ([('left', '')] if maps and column == 'removed %' else []) %}
{% endfor %}
{% call table('Models', ns.columns) %}
{% for name, kept, strip, cells in rows %}
<tr><th scope="row" class="name"><a href="#m{{ loop.index0 }}">{{ name | breakable }}</a></th>
{% for value, text in cells %}
<td data-v="{{ '' if value is none else value }}">{{ text }}</td>
{% if maps and columns[loop.index0] == 'removed %' %}
<td data-v="{{ '' if kept is none else kept }}">{% if strip %}<i class="strip" role="img" aria-label="
{{- '%.1f' | format(kept) }} % left" title="{{ '%.1f' | format(kept) }} % left" style="background:{{ strip }}"></i>
{%- endif %}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
{% endcall %}
{% if maps %}
<h2>What each layer has left</h2>
<p class="soft legend">Per cent of the original's parameters. <span class="z">nothing</span>
<span class="h">less than 20</span>{% for tenth in (2, 4, 6, 8) %}<span class="k{{ tenth }}">
{{- 10 * tenth }} and more</span>{% endfor %}<span class="k10">all</span>
{%- if unplaced %} Where nothing tells which of the layers are gone, those that are left stand first.{% endif %}</p>
{% if stacks %}
<p class="soft">{% for numbers, stack in stacks %}{{ numbers }}: {{ stack | breakable }}{{ '; ' if not loop.last }}
{%- endfor %}</p>
{% endif %}
{% for name, body in maps %}
{% if not loop.first %}<details><summary>{{ name }}</summary>{% endif %}
<div class="map">
{% set ns.columns = [('model', 'name')] %}
{% for place in range(width) %}{% set ns.columns = ns.columns + [(place, '')] %}{% endfor %}
{% call table(name ~ ': what is left, per cent', ns.columns) %}{{ body }}{% endcall %}
</div>
{% if not loop.first %}</details>{% endif %}
{% endfor %}
{% endif %}
<h2>Models one by one</h2>
{% for name, line, about, layers in details %}
<details class="model"{% if details | length == 1 %} open{% endif %}><summary><b>{{ name | breakable }}</b>
<span class="soft">{{ line }}</span></summary>
<div id="m{{ loop.index0 }}">{{ pairs('About', about) }}
<div class="scroll" tabindex="0" role="region" aria-label="Layers"><table>{{ layers }}</table></div></div></details>
{% endfor %}
<p class="soft">vadslim {{ version }}; the JSON file beside this page has the numbers for programs.</p>
{% endblock %}
"""
