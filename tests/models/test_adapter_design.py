import argparse

import pytest

from cad.errors import UserError
from cad.models.adapter_design import AdapterDesign


def test_the_default_is_the_published_adapter_and_what_is_left_out_is_the_default():
    published = {"adapter": "cad", "adapter_scale": 0.1, "adapter_gate": "fixed", "high_frequency": True}
    assert AdapterDesign().as_metadata() == published
    assert AdapterDesign.from_metadata({"method": "cad"}) == AdapterDesign()


def test_it_is_the_same_after_saving():
    design = AdapterDesign("cad_hires", 0.3, "channel", high_frequency=False)
    assert AdapterDesign.from_metadata(design.as_metadata() | {"image_size": 512}) == design
    assert AdapterDesign.from_flags(argparse.Namespace(**design.as_metadata(), lr=1.0)) == design


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adapter": "lora"}, "adapter is 'lora', expected one of cad, cad_hires"),
        ({"adapter": ["cad"]}, r"adapter is \['cad'\], expected one of"),
        ({"adapter_gate": "open"}, "adapter_gate is 'open', expected one of fixed, scalar, channel, relative"),
        ({"adapter_scale": 0}, "adapter_scale is 0, expected a number above 0"),
        ({"adapter_scale": float("nan")}, "adapter_scale is nan, expected"),
        ({"adapter_scale": True}, "adapter_scale is True, expected"),
        ({"adapter_scale": "0.1"}, "adapter_scale is '0.1', expected"),
        ({"high_frequency": 1}, "high_frequency is 1, expected true or false"),
    ],
)
def test_other_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        AdapterDesign.from_metadata(wrong)
