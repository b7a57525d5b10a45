"""The table of methods. Flags, help, run.sh, eval.sh, errors, benchmarks and tests read it; nothing else lists methods.

A method is a way to build on a frozen encoder: with an adapter beside it, with layers inside it, or with neither. A new
one is a file with its adapter and a row here: docs/EXTENDING.md. Nothing of PyTorch is imported.
"""

from dataclasses import dataclass

from cad.encoders.table import ENCODERS
from cad.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table.

    Attributes:
        name: in weights, logs and tables.
        short: in METHODS of run.sh and eval.sh, and in the file name checkpoints/sam_SHORT.pth.
        summary: what is trained, in a few words.
        script: of code/; one without a script of its own is trained by `train.py --method NAME`.
        adapter: "module:callable" that builds the adapter beside the encoder (`cad.adapters.adapter`), if there is one.
        inside_encoder: "module:callable" that builds an encoder with trained layers from SAM's, if there are such.
        options: "module:class" of the adapter's options, a dataclass whose fields become flags and metadata.
        only_sam: whether it goes with SAM's own encoder alone.
        is_trained: False for a model that is used as it is.
    """

    name: str
    short: str
    summary: str
    script: str = "train.py"
    adapter: str | None = None
    inside_encoder: str | None = None
    options: str | None = None
    only_sam: bool = False
    is_trained: bool = True

    @property
    def command(self) -> list[str]:
        """The script that trains it, with the flag that it needs."""
        return [self.script, *(["--method", self.name] if self.script == "train.py" else [])]

    @property
    def file_name(self) -> str:
        """Of its newest weights in checkpoints/."""
        return f"sam_{self.short}.pth"


METHODS = {
    method.name: method
    for method in (
        Method(
            name="cad",
            short="cad",
            summary="a convolutional adapter beside the frozen encoder, and the mask decoder",
            script="run_cad.py",
            adapter="cad.adapters.cad_adapter:CadAdapter",
            options="cad.adapters.adapter_design:AdapterDesign",
        ),
        Method(
            name="sam_adapter",
            short="sa",
            summary="SAM-Adapter's layers inside the encoder, and the mask decoder",
            script="run_sa.py",
            inside_encoder="cad.adapters.sam_adapter:SamAdapterEncoder",
            only_sam=True,
        ),
        Method(name="decoder", short="decoder", summary="the mask decoder alone", script="run_decoder.py"),
        Method(name="zero_shot", short="zero_shot", summary="nothing: SAM as it is", only_sam=True, is_trained=False),
    )
}


def trained_methods() -> tuple[str, ...]:
    """The names of the methods that are trained."""
    return tuple(name for name, method in METHODS.items() if method.is_trained)


def methods_of(encoder: str) -> tuple[str, ...]:
    """The names of the methods that go with an encoder."""
    return tuple(name for name, method in METHODS.items() if ENCODERS[encoder].is_sam or not method.only_sam)


def check_goes_with(method: str, model_type: str) -> None:
    """Raise a UserError for an encoder that the method cannot use."""
    if method not in methods_of(model_type):
        raise UserError(
            f"{method}: needs SAM's own image encoder, a ViT; --model_type {model_type} goes with "
            f"{' and '.join(methods_of(model_type))}"
        )


def by_short_names(names: list[str]) -> list[Method]:
    """The methods that METHODS of run.sh or eval.sh names.

    Raises:
        UserError: one of them is not in the table.
    """
    known = {method.short: method for method in METHODS.values()}
    *most, last = known
    for name in names:
        if name not in known:
            raise UserError(f'METHODS="{" ".join(names)}": expected any of {", ".join(most)} and {last}, found {name}')
    return [known[name] for name in names]
