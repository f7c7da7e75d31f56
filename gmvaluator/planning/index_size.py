"""Bytes of the index, and into how many segments Qdrant cuts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmvaluator.index.quantisation import code_bytes
from gmvaluator.index.schema import MAX_SEGMENT_KB
from gmvaluator.planning.constants import Constants
from gmvaluator.planning.wanted import Wanted

FLOAT_BYTES = 4
KIB = 1024
BUILD_HEADROOM = 1.3
"""Of the disk, assumed: a segment is written anew beside the old one, and deleted points stay until it is."""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """One copy of the index, without replicas.

    ram_bytes_per_point: what answers of every query need in memory. disk_bytes_per_point: everything, with headroom.
    """

    ram_bytes_per_point: float
    disk_bytes_per_point: float
    ram_bytes: float
    disk_bytes: float
    segments: int
    points_per_segment: float


def index_size(wanted: Wanted, measured: Constants) -> IndexSize:
    """RAM = N (codes + graph + ids + cache_share recall); disk = 1.3 N (the first 3 + recall + perceptual + payload).

    recall = 4 D, perceptual = 4 P V, codes = 4 D / ratio: arithmetic, for D, P and V of the profile (float32;
    gmvaluator/index/schema.py and quantisation.py). graph (HNSW links of m = 16, compressed), ids and payload: measured
    for one point, docs/results/sizing.json. The originals of recall are read for rescoring: cache_share of them is
    wanted in page cache. Perceptual vectors are read from disk.
    """
    vectors = wanted.vectors
    recall = FLOAT_BYTES * vectors.recall_dim
    perceptual = FLOAT_BYTES * vectors.perceptual_dim * vectors.views
    codes = code_bytes(wanted.quantisation, vectors.recall_dim)
    searched = codes + measured.graph_bytes_per_point + measured.ids_bytes_per_point
    ram = searched + wanted.cache_share * recall
    disk = BUILD_HEADROOM * (recall + perceptual + searched + measured.payload_bytes_per_point)
    segments = segments_of(wanted.images, max(recall, perceptual))
    return IndexSize(ram, disk, wanted.images * ram, wanted.images * disk, segments, wanted.images / segments)


def segments_of(points: int, largest_vector_bytes: int) -> int:
    """Segments = N x bytes of the largest named vector / max_segment_size, rounded up.

    Qdrant merges segments until one of their vectors' storages would be over max_segment_size, which the product sets
    to 64 GiB (MAX_SEGMENT_KB). Each segment has a graph and codes of its own, and every query asks all of them.
    """
    return max(1, math.ceil(points * largest_vector_bytes / (MAX_SEGMENT_KB * KIB)))
