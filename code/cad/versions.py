"""The versions of the packages whose version can change a result."""

from importlib import metadata

PACKAGES = (
    "torch",
    "torchvision",
    "segment-anything",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pysodmetrics",
    "wandb",
)


def installed_versions() -> dict[str, str]:
    """Version by package."""
    return {package: metadata.version(package) for package in PACKAGES}
