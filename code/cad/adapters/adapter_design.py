"""Which convolutional adapter: the choices that change what a segmenter computes, as one value.

Its fields have the names of the flags of training and of the metadata of trained weights. Nothing of PyTorch is
imported, so that flags can be checked at once.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cad.errors import UserError
from cad.options import PACKAGED_TYPES

ADAPTERS = ("cad", "cad_hires")
GATES = ("fixed", "scalar", "channel", "relative")


@dataclass(frozen=True)
class AdapterDesign:
    """The choices; the defaults are the published method.

    Attributes:
        adapter: "cad", or "cad_hires" with the high-resolution path (high_resolution.py).
        adapter_scale: what the correction is multiplied by, above 0; a trained gate starts from it.
        adapter_gate: how (adapter_gate.py).
        high_frequency: whether the adapter sees the image's high frequencies, or zeros in their place.

    Raises:
        UserError: one of them has another value.
    """

    adapter: str = "cad"
    adapter_scale: float = 0.1
    adapter_gate: str = "fixed"
    high_frequency: bool = True

    def __post_init__(self) -> None:
        for name, known in (("adapter", ADAPTERS), ("adapter_gate", GATES)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if type(self.adapter_scale) not in (int, float) or not 0 < self.adapter_scale < math.inf:
            raise UserError(f"adapter_scale is {self.adapter_scale!r}, expected a number above 0")
        if not isinstance(self.high_frequency, bool):
            raise UserError(f"high_frequency is {self.high_frequency!r}, expected true or false")

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "AdapterDesign":
        """What the flags of training say. What they leave open (None) is as published for SAM, and `BEST_FOUND` for
        packaged encoders; with them too the adapter `cad` is the published one.
        """
        best = BEST_FOUND if args.model_type in PACKAGED_TYPES else cls()
        adapter = args.adapter or best.adapter
        gate = args.adapter_gate or (best.adapter_gate if adapter == best.adapter else cls.adapter_gate)
        scale = args.adapter_scale or (BEST_FOUND.adapter_scale if gate == "relative" else cls.adapter_scale)
        return cls(adapter, scale, gate, args.high_frequency is not False)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "AdapterDesign":
        """What a trained file says; what it leaves out, as files from before there was a choice do, is published."""
        return cls(**{field.name: metadata[field.name] for field in fields(cls) if field.name in metadata})

    def as_metadata(self) -> dict[str, Any]:
        return asdict(self)


BEST_FOUND = AdapterDesign("cad_hires", 1.0, "relative")  # docs/RESULTS.md
