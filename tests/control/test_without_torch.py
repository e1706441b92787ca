"""A robot computer needs no torch."""

import subprocess
import sys

CODE = """
import sys
import vla_tune.control.loop, vla_tune.control.lerobot_robot, vla_tune.control.robot_policy
from vla_tune.schema import Policy
from vla_tune.serving.client import RemotePolicy
assert issubclass(RemotePolicy, Policy) and issubclass(vla_tune.control.robot_policy.Instructed, Policy)
print(sorted({"torch", "transformers", "peft", "lerobot", "hydra"} & sys.modules.keys()))
"""


def test_the_policy_controller_and_client_import_no_torch():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.strip() == "[]"
