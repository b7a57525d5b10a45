"""The embedding phase: run the frozen encoder over every view that the cache lacks, before training starts."""

import argparse
import shutil
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cad.datasets.views import ViewDataset, ViewSampler
from cad.distributed import gather, is_first, processes, rank
from cad.encoders.feature_cache import CachedViews, EmbeddingCache, MissingEmbeddings
from cad.encoders.sam import BaseWeights, resize_for_encoder
from cad.errors import UserError
from cad.precision import autocast
from cad.segmenter import Segmenter
from cad.training.stopping import StopRequest, ignore_in_worker


def encode_missing(
    segmenter: Segmenter,
    work: list[tuple[ViewDataset, list[tuple[int, int]]]],
    cache: EmbeddingCache,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    stop: StopRequest,
) -> int:
    """Fill the cache with the embeddings of all requested views and return how many had to be encoded.

    Args:
        segmenter: with its encoder, on `device`.
        work: data sets of views, each with the (index, view) pairs that will be needed.
        batch_size: encoder inputs at once.

    Raises:
        UserError: the disk is full or about to be. What is in the cache already stays usable.
        Interrupted: a signal asked to stop.
    """
    segmenter.eval()
    requests = sum(len(pairs) for _, pairs in work)
    encoded = 0
    waiting: list[tuple[str, Tensor]] = []
    with tqdm(total=requests, desc="encoding", unit="image", disable=None if is_first() else True) as progress:
        for views, pairs in work:
            missing = MissingEmbeddings(views, pairs, cache, partial(resize_for_encoder, side=segmenter.encoder_size))
            items: Iterable[dict[str, Any]] = DataLoader(
                missing,
                batch_size=None,
                num_workers=num_workers if len(pairs) > 1 else 0,
                worker_init_fn=ignore_in_worker,
            )
            for item in items:
                stop.check("stopped; what is encoded stays in the cache: the same command goes on from there")
                if item["encoder_input"] is None:
                    progress.update()
                    continue
                waiting.append((item["key"], item["encoder_input"]))
                if len(waiting) == batch_size:
                    encoded += _encode(segmenter, waiting, cache, device)
                    progress.update(batch_size)
                    waiting = []
        if waiting:
            encoded += _encode(segmenter, waiting, cache, device)
            progress.update(len(waiting))
    return encoded


def announce(requests: int, cache: EmbeddingCache) -> None:
    """Say how much disk the embeddings take, before the first one is made."""
    mebibytes = requests * cache.entry_bytes / 2**20
    existing = next(folder for folder in (cache.folder, *cache.folder.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**20
    print(
        f"embeddings: {requests} of {cache.entry_bytes / 2**20:.2f} MiB in {cache.dtype}, together {mebibytes:,.0f} "
        f"MiB ({free:,.0f} MiB free) in {cache.folder}"
    )


@torch.no_grad()
def _encode(
    segmenter: Segmenter, waiting: list[tuple[str, Tensor]], cache: EmbeddingCache, device: torch.device
) -> int:
    inputs = torch.stack([encoder_input for _, encoder_input in waiting]).to(device)
    with autocast(cache.precision, device):
        embeddings = segmenter.encode_inputs(inputs)
    for (key, _), embedding in zip(waiting, embeddings, strict=True):
        if not bool(torch.isfinite(embedding).all()):
            advice = "use --precision bf16 or fp32" if cache.precision == "fp16" else "are SAM's weights sound?"
            raise UserError(f"an embedding is not finite in {cache.precision}: {advice}")
        cache.store(key, embedding)
    return len(waiting)


def open_cache(segmenter: Segmenter, base: BaseWeights, args: argparse.Namespace) -> EmbeddingCache:
    """The cache for the embeddings of this encoder, in the folder and type that the flags name."""
    folder = args.cache_dir or args.output_dir / "runs" / "embeddings"
    encoder = base.encoder_sha256 or base.sha256
    return EmbeddingCache(folder, segmenter.embedding_shape, args.cache_dtype, encoder, args.precision)


def fill_cache(
    segmenter: Segmenter,
    base: BaseWeights,
    orders: list[tuple[ViewDataset, ViewSampler]],
    args: argparse.Namespace,
    device: torch.device,
    stop: StopRequest,
) -> int:
    """Encode what the cache lacks of every view that the samplers will ask for; return how many these were.

    Raises:
        UserError: see `encode_missing`.
    """
    work = []
    for views, sampler in orders:
        own = range(rank(), len(views), processes())  # by image, since different views of one may be the same
        work.append((views, [(index, view) for view in sampler.views_shown(args.epoch) for index in own]))
    requests = sum(len(views) * len(sampler.views_shown(args.epoch)) for views, sampler in orders)
    cache = open_cache(segmenter, base, args)
    announce(requests, cache)
    own_share = encode_missing(segmenter, work, cache, args.encode_batch_size, args.num_workers, device, stop)
    encoded = sum(gather(own_share))  # and all embeddings are there when a process goes on
    print(f"encoded {encoded} views, {requests - encoded} were in the cache: {cache.folder}")
    return encoded


def with_embeddings(
    views: ViewDataset, segmenter: Segmenter, base: BaseWeights, args: argparse.Namespace
) -> CachedViews:
    """The same views with their embeddings from the cache."""
    resize = partial(resize_for_encoder, side=segmenter.encoder_size)
    return CachedViews(views, open_cache(segmenter, base, args), resize)
