"""README and docs, as far as a test can tell whether they are true."""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from odin.wire.codes import CloseCode

ROOT = Path(__file__).parent.parent
SUFFIXES = (".py", ".md", ".cfg", ".toml", ".yml", ".service", ".json", ".html", "")
CODE = re.compile(r"\b[14]\d\d\d\b")


def close_codes(path):
    """Of each close code in a table: its whole row."""
    rows = [
        row for row in (ROOT / path).read_text().splitlines() if re.match(r"\| [14]\d\d\d", row)
    ]
    return {int(code): row for row in rows for code in CODE.findall(row.split("|")[1])}


class TextsTests(SynchronousTestCase):
    def test_name_of_the_package(self):
        """`odin` alone is somebody else's package: no text says to install it."""
        folders = ("*", "odin/**/*", "docs/**/*", "etc/*", "benchmarks/**/*", "twisted/**/*")
        files = [path for each in folders for path in ROOT.glob(each) if path.is_file()]
        texts = {path: path.read_text(errors="ignore") for path in files if path.suffix in SUFFIXES}
        for path, text in texts.items():
            self.assertIsNone(re.search(r"(?<![-\w])odin\[\w|pip install odin\b(?!-)", text), path)
        self.assertGreater(len(texts), 80)

    def test_close_codes(self):
        """README and protocol.md agree on when a client has to be fixed before it reconnects."""
        readme, protocol = close_codes("README.md"), close_codes("docs/protocol.md")
        self.assertEqual(set(readme), set(protocol))
        self.assertLessEqual(set(readme), set(CloseCode))
        for code, row in readme.items():
            fix = [each for each in (row, protocol[code]) if each.endswith("| fix the client |")]
            self.assertEqual(len(fix), 2 if code in (1002, 1003, 1007, 1008, 1009) else 0, row)

    def test_deploying_in_order(self):
        """What the commands of "Deploying" use, one above them has made."""
        text = (ROOT / "README.md").read_text().partition("## Deploying")[2].partition("\n## ")[0]
        lines = [line for line in text.splitlines() if line.startswith("    ")]
        commands = "\n".join(lines)
        for made_by, used in (
            ("-m venv /opt/odin\n", "/opt/odin/bin"), ("mkdir -p /etc/odin\n", "/etc/odin/"),
            ("> /etc/odin/secret", "JWT_SECRET_FILE=/etc/odin/secret"), (".[tls]", "ssl:3443"),
            ("-keyout /etc/odin/key.pem", "privateKey=/etc/odin/key.pem"),
            ("-out /etc/odin/cert.pem", "certKey=/etc/odin/cert.pem"),
        ):  # fmt: skip
            self.assertIn(made_by, commands)
            self.assertGreater(commands.index(used), commands.index(made_by), used)
