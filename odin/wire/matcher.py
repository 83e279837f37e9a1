"""Patterns for very many subjects: what was worked out for one is remembered for the next."""

from typing import Any, Final

from odin.wire.subjects import END, PatternSet

_MOST_STATES: Final = 4096  # that are remembered

_WILD: Final = frozenset((END, "*", ">"))  # keys of a tree that are no tokens of a subject


class _State:
    """Where the first tokens of a subject have led to, in the tree of the patterns."""

    __slots__ = ("ends", "moves", "nodes", "other", "rest")

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self.nodes = nodes
        self.ends = any(END in node for node in nodes)  # whether a pattern ends here
        self.rest = any(">" in node for node in nodes)  # or takes whatever follows
        tokens = set().union(*nodes) - _WILD
        self.moves: dict[str, _State | None] = dict.fromkeys(tokens)  # None: not worked out yet
        self.other: _State | None = None  # for tokens that no pattern has here


class Matcher(PatternSet):
    """A PatternSet whose `matches` is O(tokens), about 0.5 us, whatever the patterns are.

    It takes up to some kilobytes for each pattern: not to be kept.
    """

    __slots__ = ("_count", "_start")

    def __init__(self, patterns: frozenset[str]) -> None:
        super().__init__(patterns)
        self._start = _State([self._tree])
        self._count = 1

    def matches(self, subject: str) -> bool:
        """Whether a message on `subject` belongs to one of the patterns."""
        if subject in self.literals:
            return True
        state = self._start
        for token in subject.split("."):
            if state.rest:
                return True
            following = state.moves.get(token, state.other)
            state = self._make(state, token) if following is None else following
        return state.ends

    def _make(self, state: _State, token: str) -> _State:
        keys = (token, "*") if token in state.moves else ("*",)
        made = _State([node[key] for node in state.nodes for key in keys if key in node])
        self._count += 1
        if self._count <= _MOST_STATES:
            if token in state.moves:
                state.moves[token] = made
            else:
                state.other = made
        return made
