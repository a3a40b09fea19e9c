"""Every oracle test runs on every instruction set that the machine has."""

import pytest

from decoding.sampling.kernel import active_isa, available_isas, forced_isa


@pytest.fixture(scope="module", params=available_isas())
def isa(request):
    """The set that is forced for the test, and proven to be in use before and after it."""
    with forced_isa(request.param):
        assert active_isa() == request.param
        yield request.param
        assert active_isa() == request.param
