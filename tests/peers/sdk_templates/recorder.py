"""Run inside the environment of one SDK: ``python recorder.py MODULE SDK FILE`` writes a line of JSON for each template."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

module_name, sdk, output = sys.argv[1:]
lines = []
for package, name, template in importlib.import_module(module_name).templates():
    versions = {distribution: metadata.version(distribution) for distribution in (sdk, package)}
    lines.append(json.dumps({"name": name, "versions": versions, "template": base64.b64encode(template).decode()}))
Path(output).write_text("\n".join(lines), encoding="utf-8")
