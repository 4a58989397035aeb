"""The page of what one forward costs."""

import re

import torch
from torch import nn

from vadslim.analysis.example import Change, Example
from vadslim.analysis.run_page import render_run
from vadslim.analysis.run_report import collect, compute


def page(repeats=0, **options):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 25, 2)).eval()
    made = Example(lambda m: m(torch.zeros(1, 3, 5, 5)), '3 x 5 x 5 <batch 1>', **options)
    return render_run(compute(collect(model, made, repeats=repeats), settings={'config': 'a<b>.py'}))


def cells(html, name):
    row = re.search(rf'<tr><th scope="row" class="name">{name}</th>.*?</tr>', html, re.DOTALL)[0]
    return re.findall(r'data-v="([^"]*)"', row)


def test_numbers_sort_by_their_exact_value():
    html = page()
    assert cells(html, '0') == ['16', '300', '', '100', '1']  # params, MACs, sampling, activations, calls
    assert cells(html, '2')[:2] == ['202', '200']
    assert '<b>500</b>500' in html and '3 x 5 x 5 &lt;batch 1&gt;' in html and 'a&lt;b&gt;.py' in html
    assert '<th scope="col" class="grow">ms</th>' not in html and '<h2>Parts</h2>' not in html


def test_times_parts_and_alternatives():
    changes = {'as before': lambda *_: [Change('2', 'twice', 200)]}
    html = page(2, parts={'head': ['2']}, alternatives=changes)
    assert cells(html, 'head')[:3] == ['202', '200', '400'] and 'MACs as before' in html
    assert 'As before: what differs' in html and '>twice</th><td data-v="200">' in html
    assert float(cells(html, '0')[-1]) > 0 and 'median of 2' in html
    assert html.count('class="sortable"') == 3 and '://' not in html
