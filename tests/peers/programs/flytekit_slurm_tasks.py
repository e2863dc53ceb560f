"""Tasks of flytekit's plugin for Slurm: ``python flytekit_slurm_tasks.py FILE HOST`` writes them as the SDK serialises
them, and jobs of the cluster import them from here."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections import OrderedDict
from pathlib import Path

from flytekit import task
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.tools.translator import get_serializable
from flytekitplugins.slurm import SlurmConfig, SlurmFunctionConfig, SlurmScriptConfig, SlurmShellTask, SlurmTask

HERE = Path(__file__).parent
SSH = {"host": sys.argv[2] if len(sys.argv) > 2 else "", "username": os.environ.get("SLURM_PEER_USER", "")}
OPTIONS = {"output": f"{os.environ.get('SLURM_PEER_FOLDER', '')}/%x.%j", "ntasks": "1"}
SETUP = f"#!/bin/bash\nexport PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={HERE}\n"


@task(task_config=SlurmFunctionConfig(SSH, OPTIONS, SETUP + "{task.fn}\n"))
def double(number: int) -> int:
    if number < 0:
        raise ValueError("numbers begin at 0")
    print("doubling", number, "in job", os.environ["SLURM_JOB_ID"])
    return 2 * number


def write(file: Path) -> None:
    shell = SlurmShellTask("shell", SlurmConfig(SSH, {**OPTIONS, "requeue": ""}), "#!/bin/bash\necho $SLURM_JOB_NAME\n")
    script = SlurmTask("script", SlurmScriptConfig(SSH, OPTIONS, ["a", "b c"], os.environ["SLURM_PEER_SCRIPT"]))
    image = ImageConfig(Image("default", "none", "1"))
    settings = SerializationSettings(project="p", domain="d", version="1", image_config=image)
    made = {}
    for name, each in {"double": double, "shell": shell, "script": script}.items():
        template = get_serializable(OrderedDict(), settings, each).template.to_flyte_idl()
        made[name] = base64.b64encode(template.SerializeToString()).decode()
    file.write_text(json.dumps(made))


if __name__ == "__main__":
    import flytekit_slurm_tasks  # by its name, which the template tells

    flytekit_slurm_tasks.write(Path(sys.argv[1]))
