import pytest

from cad.adapters.adapter_design import AdapterDesign
from cad.datasets import demo
from cad.encoders.sam import MODEL_SIZES, PACKAGED_SIZES, SAM_SIZES
from cad.errors import MissingPathError, UserError
from cad.evaluation.options import evaluation_parser
from cad.options import DEMO_TASKS, MODEL_TYPES, PACKAGED_TYPES, PROJECT_ROOT, SAM_TYPES
from cad.training.options import check_method_flags, memory_parser, resolve_training, training_parser

FOLDERS = ["--train_image_dir", "images", "--train_mask_dir", "masks"]


def parse(*flags):
    return training_parser("run_cad.py", "").parse_args([*FOLDERS, *flags])


def error_line(capsys, parser, flags):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(flags)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_defaults_are_the_originals():
    args = resolve_training(parse("--checkpoint", __file__))  # a file that is there; it is not read here
    assert (args.batch_size, args.epoch, args.lr, args.seed, args.model_type) == (4, 20, 2e-4, 21, "vit_b")
    for random in (["--checkpoint", "random"], *(["--model_type", name] for name in ("vit_demo", *PACKAGED_TYPES))):
        assert resolve_training(parse(*random)).lr == 2e-3
    assert (args.dist, args.val_fraction, args.wandb) == (False, 0.1, "auto")
    assert args.output_dir == PROJECT_ROOT


def test_every_flag_of_the_original_is_accepted():
    flags = (
        "--batch_size 2 --port 1234 --dist False --seed 3 --model_type vit_l --checkpoint random --epoch 5 --lr 1e-3"
    )
    args = resolve_training(parse(*flags.split(), "--project_name", "mine", "--local_rank", "0"))
    assert (args.batch_size, args.epoch, args.lr, args.model_type, args.port) == (2, 5, 1e-3, "vit_l", 1234)
    flags = "--batch_size 2 --seed 3 --model_type vit_b --checkpoint a.pth --test_image_dir i --test_mask_dir m"
    assert evaluation_parser("evaluate.py", "").parse_args(flags.split()).batch_size == 2


def test_the_listed_model_types_are_those_that_can_be_built():
    assert set(MODEL_TYPES) == set(MODEL_SIZES)
    assert set(SAM_TYPES) == set(SAM_SIZES) and set(PACKAGED_TYPES) == set(PACKAGED_SIZES)
    assert DEMO_TASKS == demo.DEMO_TASKS


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model_type", "vit_x"], "--model_type: invalid choice: 'vit_x'"),
        (["--batch_size", "0"], "--batch_size: expected a whole number of at least 1, found '0'"),
        (["--epoch", "0"], "--epoch: expected a whole number of at least 1, found '0'"),
        (["--epoch", "2.5"], "--epoch: expected a whole number of at least 1, found '2.5'"),
        (["--image_size", "0"], "--image_size: expected a positive multiple of 8, found '0'"),
        (["--image_size", "500"], "--image_size: expected a positive multiple of 8, found '500'"),
        (["--lr", "0"], "--lr: expected a positive number, found '0'"),
        (["--lr", "nan"], "--lr: expected a positive number, found 'nan'"),
        (["--lr", "inf"], "--lr: expected a positive number, found 'inf'"),
        (["--lr", "-1e-4"], "--lr"),
        (["--adapter", "lora"], "--adapter: invalid choice: 'lora'"),
        (["--adapter_scale", "0"], "--adapter_scale: expected a positive number, found '0'"),
        (["--adapter_gate", "open"], "--adapter_gate: invalid choice: 'open'"),
        (["--loss", "dice"], "--loss: invalid choice: 'dice'"),
        (["--lr", "fast"], "--lr: expected a positive number, found 'fast'"),
        (["--val_fraction", "1"], "--val_fraction: expected a number of at least 0 and below 1, found '1'"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "4294967296"], "--seed: expected a whole number from 0 to 4294967295"),
        (["--train_image_dir", "~nobody-here/x"], "--train_image_dir: ~nobody-here/x: "),
        (["--checkpoint", "~nobody-here/x"], "--checkpoint: ~nobody-here/x: "),
        (["--resume", "~nobody-here/x"], "--resume: ~nobody-here/x: "),
        (["--epo", "2"], "unrecognized arguments: --epo"),
        (["--dist", "maybe"], "--dist: expected True or False, found 'maybe'"),
        (["--demo", "birds"], "--demo: invalid choice: 'birds'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_flag(capsys, flags, expected):
    assert expected in error_line(capsys, training_parser("run_cad.py", ""), [*FOLDERS, *flags])


def test_missing_folders_are_named():
    for flags, name in ([], "--train_image_dir"), (FOLDERS[:2], "--train_mask_dir"):
        with pytest.raises(UserError, match=f"{name} is not set: .*or --demo camouflage"):
            resolve_training(training_parser("run_cad.py", "").parse_args(flags))


def test_a_missing_sam_checkpoint_is_an_error_and_says_where_it_would_be(tmp_path):
    with pytest.raises(MissingPathError, match=r"--checkpoint .*checkpoints/sam_vit_b_01ec64.pth: no such file"):
        resolve_training(parse("--output_dir", str(tmp_path)))
    with pytest.raises(MissingPathError, match=r"--checkpoint mine.pth: no such file; expected SAM's vit_b weights"):
        resolve_training(parse("--checkpoint", "mine.pth"))
    with pytest.raises(MissingPathError, match=r"get them: python code/download_sam.py --model_type vit_h\)"):
        resolve_training(parse("--output_dir", str(tmp_path), "--model_type", "vit_h"))


def test_the_official_file_in_checkpoints_is_the_default(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    official = tmp_path / "checkpoints" / "sam_vit_l_0b3195.pth"
    official.touch()
    assert resolve_training(parse("--model_type", "vit_l", "--output_dir", str(tmp_path))).checkpoint == str(official)
    assert resolve_training(parse("--model_type", "vit_demo")).checkpoint == "random"


def test_combinations_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="--demo and --train_image_dir exclude each other"):
        resolve_training(parse("--demo", "shadow"))
    with pytest.raises(UserError, match="--val_image_dir and --val_mask_dir belong together"):
        resolve_training(parse("--checkpoint", "random", "--val_image_dir", "v"))
    for name in ("../x.pth", "..", "", "README.md"):
        with pytest.raises(
            UserError, match=f"--publish {name}: expected a file name without folders that ends in .pth"
        ):
            resolve_training(parse("--checkpoint", "random", "--publish", name))
    with pytest.raises(UserError, match=r"sam_vit_b_01ec64.pth: is the name of SAM's own weights"):
        resolve_training(parse("--checkpoint", "random", "--publish", "sam_vit_b_01ec64.pth"))
    with pytest.raises(UserError, match="--demo and --model_type vit_h exclude each other"):
        resolve_training(training_parser("run_cad.py", "").parse_args(["--demo", "shadow", "--model_type", "vit_h"]))
    with pytest.raises(UserError, match="--project_name a/b: expected 1 to 128 characters"):
        resolve_training(parse("--checkpoint", "random", "--project_name", "a/b"))
    with pytest.raises(UserError, match=r"--cache_dir .*test_options.py: expected a folder, found a file"):
        resolve_training(parse("--checkpoint", "random", "--cache_dir", __file__))


def test_the_adapter_is_the_published_one_unless_flags_say_otherwise():
    memory = memory_parser("memory.py", "")
    for args in (parse(), memory.parse_args(["--method", "cad"])):
        assert AdapterDesign.from_flags(args) == AdapterDesign()
    flags = ["--adapter", "cad_hires", "--adapter_scale", "0.5", "--adapter_gate", "scalar", "--no_high_frequency"]
    for args in (parse(*flags), memory.parse_args(["--method", "cad", *flags])):
        assert AdapterDesign.from_flags(args) == AdapterDesign("cad_hires", 0.5, "scalar", high_frequency=False)


@pytest.mark.parametrize(
    "flags", ["--adapter cad_hires", "--adapter_scale 0.5", "--adapter_gate scalar", "--no_high_frequency"]
)
def test_flags_of_cads_adapter_are_refused_elsewhere(flags):
    args = parse(*flags.split())
    check_method_flags(args, "cad")
    for method in ("sam_adapter", "decoder"):
        with pytest.raises(UserError, match=f"^{flags}: is of CAD's adapter"):
            check_method_flags(args, method)
        check_method_flags(parse(), method)


def test_what_flags_leave_open_is_resolved_for_the_record():
    assert AdapterDesign.from_metadata(vars(resolve_training(parse("--model_type", "vit_demo")))) == AdapterDesign()
    packaged = resolve_training(parse("--model_type", *PACKAGED_TYPES))
    assert AdapterDesign.from_metadata(vars(packaged)) == AdapterDesign("cad_hires", 1.0, "relative")


def test_sam_adapter_needs_sams_encoder():
    for method in ("cad", "decoder"):
        check_method_flags(parse("--model_type", *PACKAGED_TYPES), method)
    with pytest.raises(UserError, match="--model_type efficientnet_lite0: SAM-Adapter goes inside SAM's own encoder"):
        check_method_flags(parse("--model_type", *PACKAGED_TYPES), "sam_adapter")


def test_help_is_grouped_and_complete(capsys):
    for parser in (training_parser("run_cad.py", "words"), evaluation_parser("evaluate.py", "words")):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(["--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert "data:" in text and "model:" in text
        assert all(action.help for action in parser._actions)


def test_a_package_brings_its_own_weights(tmp_path):
    flags = ["--train_image_dir", "i", "--train_mask_dir", "m", "--model_type", "efficientnet_lite0"]
    args = resolve_training(parse(*flags))
    assert (args.checkpoint, args.image_size) == ("package", 256)
    with pytest.raises(UserError, match="efficientnet_lite0 brings its own weights"):
        resolve_training(parse(*flags, "--checkpoint", "random"))
