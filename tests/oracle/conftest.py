"""Run oracle tests on every instruction set of the machine."""

import pytest

from decoding.sampling.kernel import active_isa, available_isas, forced_isa


@pytest.fixture(scope="module", params=available_isas())
def isa(request):
    """Force an instruction set for the test. Assert that it is active before and after the test."""
    with forced_isa(request.param):
        assert active_isa() == request.param
        yield request.param
        assert active_isa() == request.param
