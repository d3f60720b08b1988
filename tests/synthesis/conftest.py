import pytest


@pytest.fixture
def espeak():
    """The one espeak-ng of this process, closed after the test."""
    from data_scripts.synthesis.espeak import Espeak

    with Espeak() as engine:
        yield engine
