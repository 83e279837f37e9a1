"""The internal listener: what operators and their tools read and do."""

from typing import Any, Final

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import IService
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.web.resource import Resource

from odin.config import Config
from odin.metrics import CONTENT_TYPE
from odin.web.answers import AnswerPage, Answers
from odin.web.site import Root, Site

HTTP_IDLE_S: Final = 60


def inner_pages(config: Config, answers: Answers) -> dict[str, Resource]:
    """What an operator reads: public, unless there is an internal listener."""
    pages: dict[str, Resource] = {
        "health": AnswerPage(answers, "health"),
        "stats": AnswerPage(answers, "stats"),
    }
    if config.metrics.enable_prometheus:
        pages[config.metrics.metrics_path] = AnswerPage(answers, "metrics", CONTENT_TYPE)
    return pages


def inner_listener(config: Config, pages: dict[str, Resource], reactor: Any) -> IService:
    """The internal listener, for operators and their tools only."""
    host = config.metrics.host or config.server.host
    endpoint = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    port = config.metrics.port
    site = Site(Root(pages), reactor, idle_timeout_s=HTTP_IDLE_S, max_body_bytes=0)
    service = StreamServerEndpointService(endpoint(reactor, port, interface=host), site.plain())
    service._raiseSynchronously = True
    return service
