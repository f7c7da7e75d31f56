"""All criteria, one section of the report each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.criteria.attributes import attributes
from evaluation.criteria.class_match import identical_class
from evaluation.criteria.efficiency import efficiency, real_index
from evaluation.criteria.noisy import noisy
from evaluation.criteria.sensitivity import sensitivity
from evaluation.criteria.trained_on import trained_on
from evaluation.criteria.world import FULL, FULL_FASHION, SHORT, SHORT_FASHION, build_world, say
from evaluation.generators.digits import Embedder, load_fashion, load_mnist
from evaluation.report.sections import Section
from gmvaluator.ports import Embeddings


def criteria(profile: str, short: bool, work: Path, fashion: Path | None = None) -> Sequence[Section]:
    """Run all criteria. work: folder of cached embeddings. fashion: folder of Fashion-MNIST's idx files, or None."""
    plan = SHORT if short else FULL
    embedder = Embedder(profile, work)
    world = build_world(load_mnist(), plan, embedder)
    sections = [identical_class(world, "c1_mnist")]
    if fashion is not None:
        smaller = SHORT_FASHION if short else FULL_FASHION
        sections.append(identical_class(build_world(load_fashion(fashion), smaller, embedder), "c1_fashion"))
    say("criteria: attributes")
    sections.append(attributes(embedder, plan.artworks))
    say("criteria: noisy and foreign training data")
    sections.append(noisy(world, plan, embedder))
    say("criteria: index, time, sensitivity")
    some = Embeddings(
        world.embeddings.recall[: plan.indexed], world.embeddings.perceptual[: plan.indexed], world.embeddings.quality
    )
    with real_index(profile, world.works.images[: plan.indexed], some) as index:
        sections.append(efficiency(world, plan, embedder, index))
        last = sensitivity(world, index)
    return [*sections, trained_on(world), last]
