"""One line for a user's mistake, wherever it was found."""

import pytest
from torch.utils.data import DataLoader, Dataset

from vadslim import cli


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise cli.UserError('a.jpg: not a readable image')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_mistake_found_by_a_data_loading_worker_is_one_line(workers, capfd):
    def main(argv):
        next(iter(DataLoader(Broken(), num_workers=workers)))

    assert cli.run(main, []) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == 'error: a.jpg: not a readable image'
