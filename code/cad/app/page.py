"""A page on this machine to try trained weights: drop an image, see its mask, move the threshold. What app.py does.

Nothing leaves the machine: it listens on 127.0.0.1 alone, Gradio's reports are off, and fonts are the system's. The
browser chooses weights by the names shown, never by a path.
"""

import argparse
import os
import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cad.app.panel import draw_invitation, draw_panel, draw_problem
from cad.app.trial import Models, Trial, name_models
from cad.datasets.pairs import EXTENSIONS
from cad.device import pick_device
from cad.errors import UserError, optional_package
from cad.files import write_atomically
from cad.options import checkpoints_folder

HOST = "127.0.0.1"
NOTHING = "nothing"  # the choice of a second model
STYLE = Path(__file__).with_name("assets") / "app.css"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "sans-serif")
LARGEST_UPLOAD = "1gb"


def serve(args: argparse.Namespace) -> None:
    """Serve the page of the flags until Ctrl-C.

    Raises:
        UserError: gradio is missing, there are no weights to choose from, or the port is taken.
    """
    import_gradio()
    given = args.checkpoint or []
    paths = name_models(given, checkpoints_folder())
    if not paths:
        raise UserError("--checkpoint: needed, since checkpoints/ holds no trained weights; ./run.sh makes some")
    check_port(args.port)
    models = Models(paths, pick_device(args.device), args.sam_checkpoint)
    with tempfile.TemporaryDirectory(prefix="sam-cad-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads and masks go when the page does
        page = Page(models, len(given) > 1, Path(folder))
        launch(page.build(), args.port)
        print(f"http://{HOST}:{args.port} (Ctrl-C ends it)")
        page.blocks.block_thread()


def import_gradio() -> Any:
    """Gradio, without its reports.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return optional_package("gradio")


def check_port(port: int) -> None:
    """Raise a UserError where the port cannot be listened on."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError as error:
        raise UserError(f"--port {port}: cannot be used: {error.strerror or error}; choose another") from error


def launch(blocks: Any, port: int) -> None:
    """Serve in threads of their own, for this machine's browsers alone."""
    gradio = import_gradio()
    blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        max_file_size=LARGEST_UPLOAD,
        theme=gradio.themes.Base(
            font=[gradio.themes.Font(name) for name in FONTS],
            font_mono=[gradio.themes.Font("monospace")],
            primary_hue="blue",
            neutral_hue="zinc",
            radius_size="sm",
        ).set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400"),
        css_paths=[STYLE],
    )


class Page:
    """The page, and what its controls call.

    Args:
        compare: start with the first two models side by side.
        folder: for the masks to download.
    """

    def __init__(self, models: Models, compare: bool, folder: Path) -> None:
        self.models = models
        self.compare = compare
        self.folder = folder
        self.blocks: Any = None

    def build(self) -> Any:
        """Lay out the page as gradio's Blocks."""
        gr = import_gradio()
        names = list(self.models.paths)
        with gr.Blocks(title="sam-cad", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.HTML(
                "<header><h1>Try it on an image</h1><p>The image stays on this machine.</p></header>", elem_id="head"
            )
            trials = gr.State([])
            with gr.Row(elem_id="work"):
                with gr.Column(elem_id="controls", min_width=240):
                    upload = gr.File(label="Image", file_types=list(EXTENSIONS), height=150, elem_id="upload")
                    first = gr.Dropdown(names, value=names[0], label="Weights", elem_id="first")
                    second = gr.Dropdown(
                        [NOTHING, *names],
                        value=names[1] if self.compare and len(names) > 1 else NOTHING,
                        label="Compare with",
                        elem_id="second",
                    )
                    threshold = gr.Slider(0.0, 1.0, 0.5, step=0.01, label="Threshold", buttons=[], elem_id="threshold")
                panels, downloads, columns = [], [], []
                with gr.Row(elem_id="results"):
                    for number in range(2):
                        with gr.Column(visible=number == 0, min_width=280) as column:
                            panels.append(gr.HTML(draw_invitation() if number == 0 else ""))
                            downloads.append(gr.DownloadButton("Download mask (PNG)", visible=False, size="md"))
                        columns.append(column)
            shown = [*panels, *downloads, *columns]
            gr.on(
                [upload.change, first.change, second.change],
                self.predict,
                [upload, first, second, threshold, trials],
                [trials, *shown],
                api_visibility="private",
                trigger_mode="always_last",
                show_progress_on=panels,
            )
            threshold.change(
                self.show,
                [trials, threshold],
                shown,
                api_visibility="private",
                trigger_mode="always_last",
                show_progress="hidden",
            )
        return self.blocks

    def predict(
        self, upload: str | None, first: str, second: str, threshold: float, before: list[Trial | str]
    ) -> list[Any]:
        """Predict the image with one model or two; what was predicted before is not computed again.

        Args:
            upload: the path that gradio gave the upload, or None.
            first, second: names of models; the second may be `NOTHING`.
            before: the trials that are shown.

        Returns:
            The new trials, each a `Trial` or the message why there is none, and what `show` returns.
        """
        known = {(trial.model, trial.image): trial for trial in before if isinstance(trial, Trial)}
        trials: list[Trial | str] = []
        for name in (first,) if second == NOTHING else (first, second):
            if upload is None:
                continue
            try:
                trials.append(known.get((name, upload)) or self.models.try_on(name, Path(upload)))
            except UserError as error:
                message = str(error).replace(upload, Path(upload).name)
                if message not in trials:  # what is wrong with the image is so for both models
                    trials.append(message)
        return [trials, *self.show(trials, threshold)]

    def show(self, trials: list[Trial | str], threshold: float) -> list[Any]:
        """Two panels, their two downloads and their two columns, at a threshold; no model runs."""
        gr = import_gradio()
        panels: list[str] = []
        downloads, columns = [], []
        for number in range(2):
            trial = trials[number] if number < len(trials) else None
            mask_file = None
            if isinstance(trial, Trial):
                mask = trial.mask(threshold)
                panels.append(draw_panel(trial, mask))
                mask_file = self.write_mask(trial, mask)
            else:
                panels.append(draw_invitation() if trial is None else draw_problem(trial))
            downloads.append(gr.update(value=mask_file, visible=mask_file is not None))
            columns.append(gr.update(visible=number == 0 or trial is not None))
        return [*panels, *downloads, *columns]

    def write_mask(self, trial: Trial, mask: np.ndarray) -> str:
        """Write the mask as a PNG of 0 and 255 under the image's name; the path."""
        folder = self.folder / uuid.uuid4().hex  # browsers of this page do not see each other's files
        folder.mkdir()
        path = folder / f"{Path(trial.image).stem}_mask.png"
        pixels = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
        write_atomically(path, lambda file: pixels.save(file, "PNG", compress_level=1), durable=False)
        return str(path)
