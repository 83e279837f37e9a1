"""permessage-deflate (RFC 7692): which offers are taken, and how."""

from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept


def is_deflate_offer(name: str, parameters: Any) -> bool:
    """Whether Autobahn can make something of an offer; others are declined (RFC 7692 5.1)."""
    if name != PerMessageDeflateOffer.EXTENSION_NAME:
        return False
    try:
        PerMessageDeflateOffer.parse(parameters)
    except Exception:  # that is what Autobahn raises
        return False
    return True


def accept_any_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """Take a permessage-deflate offer (RFC 7692) as it is made."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def accept_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """Take an offer for what clients send, each message for itself, so that a resting connection
    holds no zlib state (40 KB).

    The feed is sent as it is, which the extension allows message by message: one frame for all.
    """
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(
                offer, request_no_context_takeover=offer.accept_no_context_takeover
            )
    return None


def accept_none(_offers: list[Any]) -> None:
    return None
