"""What a router tells of the models that it can place: for each name what it means now, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cactus_mesh.messages import Catalogue, Listed, PriceTerms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.matching import Index
    from cactus_mesh.messages import ModelOffer

MAX_LISTED: Final = 256
"""Names in one answer, the first by alphabet: some 60 KiB."""
MAX_OFFERS: Final = 100
"""Offers looked at for each, the best ones: whoever is worse than these is hardly ever asked."""


def catalogue_of(index: Index) -> Catalogue:
    found = ((name, index.offers(name, limit=MAX_OFFERS)) for name in index.models()[:MAX_LISTED])
    return Catalogue([Listed(offers[0], len(offers), dearest(offers)) for _, offers in found if offers])


def dearest(offers: Sequence[ModelOffer]) -> PriceTerms:
    """The highest of each price."""
    return PriceTerms(
        base=max(offer.price.base for offer in offers),
        input_per_1k=max(offer.price.input_per_1k for offer in offers),
        output_per_1k=max(offer.price.output_per_1k for offer in offers),
    )
