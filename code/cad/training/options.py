"""The flags of training, and what they are resolved to.

The original's flags keep their names and defaults. Bad values end a script with one line and exit code 2 before
anything is read or written; paths are checked where they are used.
"""

import argparse
from pathlib import Path

from cad.adapters.adapter_design import ADAPTERS, GATES, AdapterDesign
from cad.errors import UserError
from cad.options import (
    DEMO_TASKS,
    METHODS_INSIDE_SAM,
    NO_FILE,
    PACKAGED_TYPES,
    TRAINED_METHODS,
    OneLineParser,
    add_machine_flags,
    add_model_type,
    add_output_dir,
    add_reading_flags,
    count,
    fraction,
    multiple_of_8,
    path_or_word,
    positive_float,
    positive_int,
    sam_checkpoint_path,
    seed_number,
    str2bool,
    user_path,
)

# Enough for the demo to show something within a minute or two on two CPU cores.
DEMO_EPOCHS = 10
LOSSES = ("original", "structure")  # of losses.py, which imports torch
LR = 2e-4
SCRATCH_LR = 2e-3  # a mask decoder that starts from random weights learns little at the published rate


def training_parser(prog: str, description: str) -> OneLineParser:
    """The flags of run_cad.py, run_sa.py and run_decoder.py."""
    parser = OneLineParser(prog=prog, description=description)
    _add_data_flags(parser.add_argument_group("data"))
    _add_encoder_flags(parser.add_argument_group("model"))
    _add_adapter_flags(parser.add_argument_group("adapter of run_cad.py"))
    _add_optimisation_flags(parser.add_argument_group("training"))
    _add_safety_flags(parser.add_argument_group("safety"))
    _add_memory_flags(parser)
    _add_output_flags(parser.add_argument_group("output and logging"))
    _add_original_flags(parser.add_argument_group("accepted for the original's command lines"))
    return parser


def _add_data_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--train_image_dir", type=user_path, metavar="DIR", help="folder of training images")
    group.add_argument(
        "--train_mask_dir",
        type=user_path,
        metavar="DIR",
        help="folder of their masks, of the same names up to the extension",
    )
    group.add_argument("--val_image_dir", type=user_path, metavar="DIR", help="folder of validation images")
    group.add_argument("--val_mask_dir", type=user_path, metavar="DIR", help="folder of their masks")
    group.add_argument(
        "--val_fraction",
        type=fraction,
        default=0.1,
        metavar="F",
        help="without validation folders: the share of the training images, chosen by the seed, to validate on; "
        "0 trains on everything and keeps the last epoch, as the original (default: %(default)s)",
    )
    group.add_argument(
        "--demo",
        choices=DEMO_TASKS,
        help="train vit_demo on a built-in synthetic set; needs no data and no SAM weights",
    )
    group.add_argument(
        "--views",
        type=count,
        default=4,
        metavar="N",
        help="augmented views of each image, shown in turn, one an epoch; as many as epochs is training without a "
        "cache; 0 = no augmentation (default: %(default)s)",
    )
    add_reading_flags(group)


def _add_encoder_flags(group: argparse._ArgumentGroup) -> None:
    add_model_type(group)
    group.add_argument(
        "--checkpoint",
        type=path_or_word("random"),
        metavar="FILE",
        help="SAM's weights, or the word random for seeded random ones "
        "(default: the official file name of the model type in checkpoints/; random for vit_demo)",
    )
    _add_image_size(group)


def _add_optimisation_flags(group: argparse._ArgumentGroup) -> None:
    _add_batch_flags(group)
    group.add_argument(
        "--epoch", type=positive_int, metavar="N", help=f"passes over the data (default: 20; {DEMO_EPOCHS} for --demo)"
    )
    group.add_argument(
        "--lr",
        type=positive_float,
        help=f"AdamW's learning rate, cosine to 0 (default: {LR:g}; {SCRATCH_LR:g} where the mask decoder "
        "starts from random weights, as for vit_demo and efficientnet_lite0)",
    )
    group.add_argument(
        "--loss",
        choices=LOSSES,
        default=LOSSES[0],
        help="original: cross-entropy plus IoU loss; structure: both weighted towards the mask's boundary, as in F3Net "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=seed_number, default=21, metavar="N", help="seed of everything random (default: 21)"
    )
    add_machine_flags(group)


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    add_output_dir(group)
    group.add_argument(
        "--cache_dir", type=user_path, metavar="DIR", help="where embeddings are kept (default: runs/embeddings)"
    )
    group.add_argument(
        "--publish",
        metavar="NAME",
        help="also copy the finished weights to checkpoints/NAME, but never a demo's over others",
    )
    group.add_argument(
        "--project_name", default="sam-cad", metavar="NAME", help="Weights & Biases project (default: %(default)s)"
    )
    group.add_argument(
        "--wandb",
        choices=("auto", "online", "offline", "disabled"),
        default="auto",
        help="auto: online when an API key is configured, else offline; never asks for a login (default: %(default)s)",
    )
    group.add_argument(
        "--wandb_details",
        action="store_true",
        help="send code version, git state and host details to Weights & Biases too (default: off)",
    )


def _add_original_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dist",
        type=str2bool,
        default=False,
        metavar="BOOL",
        help="train on all GPUs of this machine, --batch_size images on each, as torchrun --nproc_per_node GPUS does",
    )
    group.add_argument(
        "--port", type=count, default=29500, metavar="N", help="port of --dist True (default: %(default)s)"
    )
    group.add_argument(
        "--local_rank", type=int, default=0, metavar="N", help="unused: torchrun tells each process its GPU"
    )


def memory_parser(prog: str, description: str) -> OneLineParser:
    """The flags of memory.py: those of training that decide how much memory it takes."""
    parser = OneLineParser(prog=prog, description=description)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--method", choices=TRAINED_METHODS, help="the method to predict")
    asked.add_argument(
        "--table", action="store_true", help="all methods and sizes of SAM beside cards of 4 to 80 GB (takes a minute)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, memory in MiB")
    model = parser.add_argument_group("model")
    add_model_type(model)
    parser.set_defaults(model_type="vit_b")
    _add_image_size(model)
    _add_adapter_flags(parser.add_argument_group("adapter of CAD"))
    _add_batch_flags(parser.add_argument_group("training"))
    _add_memory_flags(parser)
    return parser


def _add_adapter_flags(group: argparse._ArgumentGroup) -> None:
    packaged = " and ".join(PACKAGED_TYPES)
    group.add_argument(
        "--adapter",
        choices=ADAPTERS,
        help="cad: as published; cad_hires: with a high-resolution path into the mask decoder (default: cad; cad_hires "
        f"for {packaged})",
    )
    group.add_argument(
        "--adapter_scale",
        type=positive_float,
        metavar="X",
        help="what the correction is multiplied by (default: 0.1; 1 where the gate is relative)",
    )
    group.add_argument(
        "--adapter_gate",
        choices=GATES,
        help="fixed: by the scale; scalar, channel: by one trained number, or one a channel, that starts from it; "
        "relative: by the scale times the standard deviation of the image's embedding (default: fixed; relative for "
        f"cad_hires with {packaged})",
    )
    group.add_argument(
        "--no_high_frequency",
        action="store_const",
        const=False,
        dest="high_frequency",
        help="show the adapter zeros in place of the image's high frequencies",
    )


def _add_batch_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch_size", type=positive_int, default=4, metavar="N", help="images a step (default: 4)")
    group.add_argument(
        "--accumulate", type=positive_int, default=1, metavar="N", help="batches a step of the optimiser (default: 1)"
    )


def _add_safety_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume",
        type=path_or_word("auto"),
        metavar="{auto,DIR}",
        help="go on with a run that was cut off, as if nothing had happened: auto takes the newest of this method "
        "below runs/, or starts a run where there is none; its flags need not be repeated",
    )
    group.add_argument(
        "--save_every",
        type=positive_float,
        default=10.0,
        metavar="MINUTES",
        help="how often to save within an epoch; every epoch is saved anyway (default: %(default)g)",
    )
    group.add_argument(
        "--early_stopping",
        type=positive_int,
        metavar="PATIENCE",
        help="stop after so many epochs without a better validation IoU (default: never)",
    )
    group.add_argument(
        "--skip_nonfinite",
        type=count,
        default=0,
        metavar="N",
        help="leave out up to N steps of the run whose loss or gradient is not finite, not stopping (default: 0)",
    )


def _add_memory_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory and speed")
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="autocast to this type, in encoding and in training (default: %(default)s)",
    )
    group.add_argument(
        "--adapter_execution",
        choices=("lean", "plain"),
        default="lean",
        help="CAD: the same function in little memory, or layer by layer as the paper writes it (default: %(default)s)",
    )
    group.add_argument(
        "--grad_checkpointing",
        action="store_true",
        help="SAM-Adapter: run each encoder block once more in backward, which takes less memory and more time",
    )
    group.add_argument(
        "--no_cache",
        action="store_false",
        dest="cache",
        help="run the frozen encoder at every step instead of keeping embeddings on disk",
    )
    group.add_argument(
        "--cache_dtype",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="type of the embeddings on disk (default: %(default)s)",
    )
    group.add_argument(
        "--encode_batch_size",
        type=positive_int,
        default=1,
        metavar="N",
        help="images at once when filling the cache (default: 1)",
    )


def _add_image_size(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image_size",
        type=multiple_of_8,
        metavar="PIXELS",
        help="side of the adapter's input and of the mask, a multiple of 8 "
        "(default: 512; 256 for vit_demo and efficientnet_lite0)",
    )


def resolve_training(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on other flags, and refuse combinations that cannot work.

    Raises:
        UserError, MissingPathError: naming the flag.
    """
    if args.demo:
        _resolve_demo(args)
    elif args.train_image_dir is None or args.train_mask_dir is None:
        missing = "--train_image_dir" if args.train_image_dir is None else "--train_mask_dir"
        raise UserError(f"{missing} is not set: pass a folder of images and a folder of masks, or --demo camouflage")
    args.model_type = args.model_type or "vit_b"
    if (args.val_image_dir is None) != (args.val_mask_dir is None):
        raise UserError("--val_image_dir and --val_mask_dir belong together: set both or neither")
    args.epoch = args.epoch or 20
    from cad.encoders.sam import MODEL_SIZES  # imports torch, which a wrong flag should not wait for

    args.image_size = args.image_size or MODEL_SIZES[args.model_type].image_size
    args.checkpoint = sam_checkpoint_path(args.model_type, args.checkpoint, args.output_dir / "checkpoints")
    args.lr = args.lr or (SCRATCH_LR if args.checkpoint in NO_FILE else LR)
    vars(args).update(AdapterDesign.from_flags(args).as_metadata())
    check_flags(args)
    return args


def check_method_flags(args: argparse.Namespace, method: str) -> None:
    """Raise UserError for an encoder that the method cannot use, and for flags of an adapter that it has not."""
    if method in METHODS_INSIDE_SAM and args.model_type in PACKAGED_TYPES:
        raise UserError(f"--model_type {args.model_type}: SAM-Adapter goes inside SAM's own encoder; use run_cad.py")
    for name, value in AdapterDesign().as_metadata().items():
        asked = getattr(args, name)
        if method != "cad" and asked not in (None, value):
            flag = "--no_high_frequency" if name == "high_frequency" else f"--{name} {asked}"
            raise UserError(f"{flag}: is of CAD's adapter: leave it out, or use run_cad.py")


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for names of files and projects that cannot be used, and for flags that lack what they need."""
    if args.early_stopping and args.val_fraction == 0 and args.val_image_dir is None:
        raise UserError("--early_stopping needs validation images: set --val_fraction above 0, or --val_image_dir")
    from cad.encoders.sam import SAM_SIZES

    if args.publish is not None:
        if Path(args.publish).name != args.publish or not args.publish.endswith(".pth"):
            raise UserError(f"--publish {args.publish}: expected a file name without folders that ends in .pth")
        if args.publish in {size.file_name for size in SAM_SIZES.values()} | {Path(args.checkpoint).name}:
            raise UserError(f"--publish {args.publish}: is the name of SAM's own weights; choose another")
    if not args.project_name or len(args.project_name) > 128 or set(args.project_name) & set("/\\#?%:"):
        raise UserError(
            f"--project_name {args.project_name}: expected 1 to 128 characters, none of / \\ # ? % :, which Weights & "
            "Biases refuses"
        )
    if args.cache_dir is not None and args.cache_dir.exists() and not args.cache_dir.is_dir():
        raise UserError(f"--cache_dir {args.cache_dir}: expected a folder, found a file")


def _resolve_demo(args: argparse.Namespace) -> None:
    for flag in ("train_image_dir", "train_mask_dir", "val_image_dir", "val_mask_dir", "checkpoint"):
        if getattr(args, flag) is not None:
            raise UserError(f"--demo and --{flag} exclude each other: the demo brings its own data and random weights")
    if args.model_type not in (None, "vit_demo"):
        raise UserError(f"--demo and --model_type {args.model_type} exclude each other: the demo trains vit_demo")
    args.model_type = "vit_demo"
    args.epoch = args.epoch or DEMO_EPOCHS
