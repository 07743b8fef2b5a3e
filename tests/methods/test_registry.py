"""Methods that nobody registered, by their place."""

import pytest

from glocal.errors import UsageError
from glocal.methods import VICReg, method_class


def test_an_unregistered_method_goes_by_its_place():
    assert method_class("glocal.methods.vicreg:VICReg") is VICReg


@pytest.mark.parametrize("name", ["nowhere:VICReg", "glocal.methods:Nothing", "glocal.methods:", ":VICReg"])
def test_a_place_without_a_class_is_refused(name):
    with pytest.raises(UsageError, match="no method at"):
        method_class(name)
