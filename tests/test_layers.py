"""Who imports whom, and that importing the plugin installs no reactor."""

import ast
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
LAYERS = ("wire", "access", "delivery", "bus", "gateway", "web")
TOP = (
    "service", "components", "inner", "moves", "fleet", "worker", "place", "sampling", "loading", "checks",
    "tap", "demo", "metrics", "status", "logs", "tools",
)  # fmt: skip
ONLY = {
    "nats": ("odin/bus/", "benchmarks/"),
    "jwt": ("odin/access/tokens.py",),
    "autobahn": ("odin/gateway/", "benchmarks/"),
    "prometheus_client": ("odin/metrics.py",),
    "cryptography": ("odin/access/tokens.py",),
}
PURE = ("odin/wire/", "odin/access/", "odin/delivery/")
IMPURE = ("twisted.internet", "asyncio", "time", "socket", "threading")


def imports():
    """(file, imported module) for every import of ours."""
    for path in [*ROOT.glob("odin/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            else:
                continue
            for name in names:
                yield path.relative_to(ROOT).as_posix(), name


class LayersTests(SynchronousTestCase):
    def test_layers(self):
        """A layer imports nothing above it."""
        seen = 0
        for file, module in imports():
            parts = file.split("/")
            if parts[:2] == ["odin", "process"] and module.startswith("odin."):
                known = ("process", "errors", "reports")
                self.assertIn(module.split(".")[1], known, (file, module))
            if parts[0] != "odin" or parts[1] not in LAYERS or not module.startswith("odin."):
                continue
            seen += 1
            target = module.split(".")[1]
            if target in LAYERS:
                self.assertLessEqual(LAYERS.index(target), LAYERS.index(parts[1]), (file, module))
            elif target in ("config", "process"):
                self.assertIn(parts[1], ("bus", "gateway", "web"), (file, module))
            elif target in TOP:
                self.assertEqual((parts[1], target), ("web", "status"), (file, module))
        self.assertGreater(seen, 50)

    def test_only_one_importer(self):
        """Each foreign library has its place."""
        for file, module in imports():
            for library, places in ONLY.items():
                if module.split(".")[0] == library:
                    self.assertTrue(file.startswith(places), (file, module))

    def test_pure(self):
        """The pure layers know no reactor, no clock and no I/O."""
        for file, module in imports():
            if file.startswith(PURE) and file != "odin/access/tokens.py":
                for name in IMPURE:
                    self.assertFalse((module + ".").startswith(name + "."), (file, module))

    def test_no_reactor_by_import(self):
        """twistd can still be told which reactor to install."""
        code = "import odin.tap, sys; sys.exit('twisted.internet.reactor' in sys.modules)"
        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)
