"""Numbers as people read them."""

import pytest

from vadslim.analysis import complexity
from vadslim.analysis.numbers import human


@pytest.mark.parametrize('number, text', [(12, '12'), (39_865_999, '39.9 M'), (999_999, '1 M'), (1.9e11, '190 G')])
def test_human(number, text):
    assert human(number) == text


def test_human_is_still_where_it_was():
    assert complexity.human is human
