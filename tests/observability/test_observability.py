"""What Prometheus and Grafana are given: `make test-alerts` runs this.

The alerts fire when they should (alerts_test.yml), every query can be parsed, and every metric that a query
names is one that Lonja has.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "deploy" / "observability"
PROMTOOL = os.environ["PROMTOOL"]


def promtool(*arguments: object) -> None:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise AssertionError(done.stdout)


def queries() -> list[str]:
    """The queries of the dashboard, with the interval that Grafana would choose."""
    dashboard = json.loads((FILES / "grafana" / "dashboards" / "lonja.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [target["expr"].replace("$__rate_interval", "1m") for target in targets]


def exported() -> set[str]:
    """The metrics of docs/operations.md."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    table = page.split("## Every metric")[1].split("\n## ")[0]
    return set(re.findall(r"`(lonja_[a-z_]+)", table))


class Observability(unittest.TestCase):
    def test_prometheus_takes_its_files(self):
        promtool("check", "config", FILES / "prometheus.yml")

    def test_each_alert_fires_when_it_should_and_only_then(self):
        promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))
        tested = Path(__file__).with_name("alerts_test.yml").read_text()
        for alert in re.findall(r"- alert: (\w+)", (FILES / "alerts.yml").read_text()):
            self.assertIn(f"- alertname: {alert}\n", tested, "it is never seen to fire")
            self.assertIn(f"{{alertname: {alert},", tested, "it is never seen not to fire")

    def test_the_dashboard_asks_what_prometheus_understands(self):
        self.assertGreater(len(queries()), 20)
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            # JSON is YAML.
            json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
            file.flush()
            promtool("check", "rules", file.name)

    def test_every_metric_is_one_that_lonja_has(self):
        text = (FILES / "alerts.yml").read_text() + "\n".join(queries())
        named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\blonja_[a-z_]+", text)}
        self.assertGreater(len(named), 10)
        self.assertEqual(named - exported(), set())


if __name__ == "__main__":
    unittest.main()
