"""The inputs of one indexing run: what to index, with which models, and which share of the shards."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.models.choice import ProfileChoice
from gmvaluator.training_images import DEFAULT_LIMITS, TrainingLimits
from indexer.opt_outs import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Source

THREADS, RAY = ENGINES = ("threads", "ray")
"""Names of the embedding engines: threads of this process, or the workers of a Ray cluster."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Partition `index` (from 0) of `count`; each of several indexers takes its own shards of one source."""

    index: int = 0
    count: int = 1

    def select(self, source: Source) -> Source:
        """Return the source with the shards of this partition alone."""
        return source.partition(self.index, self.count)

    @property
    def suffix(self) -> str:
        """A suffix for names of files and runs that differs between partitions; "" for the whole source."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"


@dataclass(frozen=True, slots=True)
class IndexJob:
    """The images to index, their data set, and the images to leave out.

    location: a path or fsspec URL. manifest: a file of rows that name the images, or None. opt_outs: SHA-256s, keys
    and URLs to leave out. heed_signals: whether an opt-out signal of the source leaves an image out. own_data_sets:
    whether rows of an export keep the data sets that they name. group: whether to look for near-duplicates at the end.
    bulk: whether a server defers its indexing until the end. strict: whether a run fails if an entry of
    `opt_outs` names nothing. limits: of the images' bytes and pixels.
    """

    location: str
    manifest: str | None
    data_set: str
    partition: Partition = Partition()
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    own_data_sets: bool = False
    group: bool = True
    bulk: bool = False
    limits: TrainingLimits = DEFAULT_LIMITS
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """The models that embed and how they run.

    device: auto, cpu, cuda, cuda:N or mps. threads: CPU threads of the models; None lets torch choose. engine: one of
    `ENGINES`. ray_workers: workers of Ray; 0 takes one per CPU, or one per GPU.
    """

    choice: ProfileChoice
    device: str
    threads: int | None
    engine: str = THREADS
    ray_workers: int = 0
