"""Works that were indexed before their owners opted out: an opt-out keeps out what is read, and removes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmvaluator.catalogue.reader import CatalogueReader
from indexer.counting import OPT_OUT, LeftOutFile
from indexer.sources.consent import OptOutList


@dataclass(frozen=True, slots=True)
class StillIndexed:
    """Works that are found and paid although a list, or their source, says no. file: their SHA-256s, one a line."""

    works: int
    file: Path


def still_indexed(
    catalogue: CatalogueReader, data_set: str, opt_outs: OptOutList, left_out: LeftOutFile
) -> StillIndexed | None:
    """Those of a list, and of the rows that a run left out as opted out; None if there are none.

    Their file is one for `gmvaluator index remove --from`.
    """
    names = opt_outs.names | set(left_out.keys(OPT_OUT))
    found = sorted(catalogue.standing(data_set, opt_outs.sha256s, names))
    file = left_out.path.with_suffix(".still-indexed.txt")
    if not found:
        file.unlink(missing_ok=True)
        return None
    file.write_text("".join(f"{sha256}\n" for sha256 in found), encoding="utf-8")
    return StillIndexed(len(found), file)
