import argparse

import pytest

from cad.adapters.adapter_design import AdapterDesign
from cad.errors import UserError


def test_the_default_is_the_published_adapter_and_what_is_left_out_is_the_default():
    published = {"adapter": "cad", "adapter_scale": 0.1, "adapter_gate": "fixed", "high_frequency": True}
    assert AdapterDesign().as_metadata() == published
    assert AdapterDesign.from_metadata({"method": "cad"}) == AdapterDesign()


def test_it_is_the_same_after_saving():
    design = AdapterDesign("cad_hires", 0.3, "channel", high_frequency=False)
    assert AdapterDesign.from_metadata(design.as_metadata() | {"image_size": 512}) == design
    assert AdapterDesign.from_flags(argparse.Namespace(**design.as_metadata(), model_type="vit_b")) == design


def flags(model_type, **given):
    left_open = dict.fromkeys(("adapter", "adapter_scale", "adapter_gate", "high_frequency"))
    return argparse.Namespace(**left_open | given, model_type=model_type)


@pytest.mark.parametrize("model_type", ["vit_b", "vit_h", "vit_demo", None])
def test_sams_models_get_the_published_adapter_unless_a_flag_asks_for_another(model_type):
    assert AdapterDesign.from_flags(flags(model_type)) == AdapterDesign()
    assert AdapterDesign.from_flags(flags(model_type, adapter="cad_hires")) == AdapterDesign("cad_hires")
    assert AdapterDesign.from_flags(flags(model_type, adapter_scale=0.5)) == AdapterDesign(adapter_scale=0.5)
    relative = AdapterDesign.from_flags(flags(model_type, adapter_gate="relative"))
    assert relative == AdapterDesign(adapter_gate="relative", adapter_scale=1.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("cad_hires", 1.0, "relative")),
        ({"adapter": "cad"}, ("cad", 0.1, "fixed")),
        ({"adapter": "cad_hires"}, ("cad_hires", 1.0, "relative")),
        ({"adapter_gate": "scalar"}, ("cad_hires", 0.1, "scalar")),
        ({"adapter_scale": 0.5}, ("cad_hires", 0.5, "relative")),
        ({"high_frequency": False}, ("cad_hires", 1.0, "relative", False)),
    ],
)
def test_a_packaged_encoder_gets_what_its_table_shows_to_be_best(given, expected):
    assert AdapterDesign.from_flags(flags("efficientnet_lite0", **given)) == AdapterDesign(*expected)


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
