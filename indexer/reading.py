"""Reading of a source's items, and decoding of their bytes into catalogue works, thumbnails and model inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.errors import GmvaluatorError, InvalidImage, InvalidInput
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import thumbnail
from gmvaluator.ports import Prepared
from gmvaluator.training_images import DEFAULT_LIMITS, TrainingLimits, decode_training_image, training_image_size
from indexer.opt_outs import NO_OPT_OUTS, OptOutList
from indexer.report import OPT_OUT, LeftOut
from indexer.sources.item import Item, SourceItem, Unreadable


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An item's bytes and their hash; they may turn out to be no image."""

    item: SourceItem
    data: bytes
    sha256: str

    @property
    def training_image_id(self) -> TrainingImageId:
        return training_image_id(self.sha256)

    @property
    def owner(self) -> OwnerReference | None:
        """The owner whom the source names. Raises InvalidManifest if the name or id is too long."""
        item = self.item
        return OwnerReference(item.owner, item.owner_name or item.owner) if item.owner else None


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A work for the catalogue, its thumbnail (WebP), and the model inputs of its views.

    first_of_several: whether the file has more frames or pages, of which this is the first. local_features: as text;
    None for a profile without them.
    """

    work: NewWork
    thumbnail: bytes
    inputs: Sequence[Prepared]
    first_of_several: bool = False
    local_features: str | None = None

    @property
    def training_image_id(self) -> TrainingImageId:
        return self.work.training_image_id


@dataclass(frozen=True, slots=True)
class ItemReader:
    """A reader and decoder of items. Thread-safe.

    prepare: returns the model inputs of an image's views. opt_outs: images to leave out. heed_signals: whether an
    opt-out signal of the source leaves an item out too. limits: of the images' bytes and pixels. check_size:
    refuses images by width and height.
    """

    data_set: str
    prepare: Callable[[Image], Sequence[Prepared]]
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    limits: TrainingLimits = DEFAULT_LIMITS
    check_size: Callable[[int, int], None] = lambda width, height: None  # noqa: ARG005

    def read(self, item: Item) -> ReadImage | LeftOut:
        """Read an item, unless its owner opted out or it cannot be read."""
        if isinstance(item, Unreadable):
            listed = self.opt_outs.named(item.key)
            return LeftOut(item.key, item.reason, listed=listed)
        signal = f"its source says: {item.opt_out}" if item.opt_out and self.heed_signals else ""
        named = self.opt_outs.named(item.key, item.url, item.uri)
        if signal or named:
            return self._opted_out(item, signal or f"the opt-out list has {named[0]}", named, bool(signal))
        try:
            return self._read(item)
        except InvalidInput as error:
            return LeftOut(item.key, str(error))
        except OSError as error:
            return LeftOut(item.key, f"the file cannot be read: {error.strerror or error}")

    def _opted_out(self, item: SourceItem, reason: str, named: tuple[str, ...], by_signal: bool) -> LeftOut:
        """Return an item that is left out, with the hash of its bytes, by which an earlier run may have indexed it."""
        try:
            data = item.read()
        except (InvalidInput, OSError):
            data = b""
        sha256 = sha256_hex(data) if data else ""
        listed = (*named, *self.opt_outs.hashes(sha256, item.sha256, item.download_sha256))
        by_key_alone = not by_signal and not set(listed) - set(self.opt_outs.named(item.key))
        return LeftOut(item.key, reason, OPT_OUT, item.uri, item.url, sha256, listed, by_key_alone)

    def _read(self, item: SourceItem) -> ReadImage | LeftOut:
        data = item.read()
        sha256 = sha256_hex(data)
        # A list may name the hash that the source states, or that of the download before it was resized.
        listed = self.opt_outs.hashes(sha256, item.sha256, item.download_sha256)
        if listed:
            reason = f"the opt-out list has its SHA-256, {listed[0]}"
            return LeftOut(item.key, reason, OPT_OUT, item.uri, item.url, sha256, listed)
        if item.sha256 not in (None, sha256):
            raise InvalidImage(f"its SHA-256 is {sha256}, the manifest says {item.sha256}: correct one of them")
        return ReadImage(item, data, sha256)

    def decode(self, read: ReadImage) -> DecodedImage | LeftOut:
        """Decode an image to upright RGB, unless it exceeds the size limits, and prepare the model inputs."""
        try:
            image = decode_training_image(read.data, self.limits)
            self.check_size(image.width, image.height)
            work = self._work(read, image.width, image.height)
            inputs = self.prepare(image.pixels)
            local = next((view.local for view in inputs), None)
            local_features = None if local is None else local.to_text()
            return DecodedImage(work, thumbnail(image.pixels), inputs, image.first_of_several, local_features)
        except GmvaluatorError as error:
            return LeftOut(read.item.key, str(error))

    def describe(self, read: ReadImage) -> NewWork | LeftOut:
        """Return the work of an image that is indexed already, from its header alone."""
        try:
            return self._work(read, *training_image_size(read.data, self.limits))
        except GmvaluatorError as error:
            return LeftOut(read.item.key, str(error))

    def _work(self, read: ReadImage, width: int, height: int) -> NewWork:
        item = read.item
        return NewWork(
            training_image_id=read.training_image_id,
            sha256=read.sha256,
            width=width,
            height=height,
            data_set=self.data_set,
            key=item.key,
            uri=item.uri,
            url=item.url,
            title=item.title,
            license=item.license,
            labels=item.labels,
            owner=read.owner,
        )
