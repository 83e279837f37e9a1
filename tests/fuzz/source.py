"""Choices out of an input's bytes: the same ones whoever made the input."""

import itertools


class Source:
    """Reads an input from its front. At the end it yields zeros and nothing."""

    def __init__(self, data):
        self._data, self._at = data, 0

    @property
    def more(self):
        return self._at < len(self._data)

    def byte(self):
        if not self.more:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def take(self, size):
        """Up to `size` bytes."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self):
        return self.take(len(self._data))

    def below(self, limit):
        return self.byte() % limit

    def pick(self, options):
        return options[self.below(len(options))]

    def cuts(self, data, most=4):
        """`data` in up to `most` + 1 pieces."""
        places = sorted(self.byte() * len(data) // 255 for _ in range(self.below(most + 1)))
        places = [0, *places, len(data)]
        return [data[a:b] for a, b in itertools.pairwise(places) if a < b]
