import pytest

from tests.toolbox.toy import make_toy_data


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """Folder with the toy images, for DATASET.ROOT."""
    root = tmp_path_factory.mktemp("toy_root")
    make_toy_data(root)
    return root
