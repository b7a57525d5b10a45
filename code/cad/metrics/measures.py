"""The metrics that an evaluation reports: their names, how tables call them, and which are better when lower."""

from dataclasses import dataclass

UNDEFINED_F = "no image has foreground: precision and recall are about foreground"
UNDEFINED_E = "no image has more than one pixel: the E-measure divides by the number of pixels less one"
UNDEFINED_BER = "the images have no foreground, or no background, at all: a balanced rate needs both"


@dataclass(frozen=True)
class Measure:
    """One metric.

    Args:
        title: for plain text and Markdown.
        latex: for LaTeX, in text mode.
        lower_is_better: else a higher value is better.
        per_image: whether one image has a value of its own, so that the summary is the mean of these.
        undefined: why the summary can be without a value; empty where it never is.
    """

    title: str
    latex: str
    lower_is_better: bool = False
    per_image: bool = True
    undefined: str = ""

    @property
    def arrow(self) -> str:
        """The direction in which it gets better."""
        return "↓" if self.lower_is_better else "↑"


MEASURES = {
    "bce": Measure("BCE", "BCE", lower_is_better=True),
    "iou_loss": Measure("IoU loss", "IoU loss", lower_is_better=True),
    "dice": Measure("Dice", "Dice"),
    "iou": Measure("IoU", "IoU"),
    "s_measure": Measure("S-measure", r"$S_\alpha$"),
    "e_measure_mean": Measure("E-measure, mean", r"$E_\phi^{\mathrm{mean}}$", undefined=UNDEFINED_E),
    "e_measure_max": Measure("E-measure, max", r"$E_\phi^{\mathrm{max}}$", per_image=False, undefined=UNDEFINED_E),
    "e_measure_adaptive": Measure("E-measure, adaptive", r"$E_\phi^{\mathrm{adp}}$", undefined=UNDEFINED_E),
    "weighted_f": Measure("weighted F-measure", r"$F_\beta^\omega$", undefined=UNDEFINED_F),
    "f_measure": Measure("F-measure, mean", r"$F_\beta^{\mathrm{mean}}$", undefined=UNDEFINED_F),
    "mae": Measure("MAE", "MAE", lower_is_better=True),
    "ber_pooled": Measure(
        "BER pooled, %", r"BER pooled (\%)", lower_is_better=True, per_image=False, undefined=UNDEFINED_BER
    ),
    "ber_per_image": Measure("BER per image, %", r"BER per image (\%)", lower_is_better=True),
    "boundary_iou": Measure("boundary IoU", "boundary IoU"),
}
PER_IMAGE = tuple(name for name, measure in MEASURES.items() if measure.per_image)
