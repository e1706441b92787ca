"""Fine-tune vision-language-action models; what the robot gets is what was trained."""

import os
import sys

_WITHOUT_A_SCREEN = {"MUJOCO_GL": "egl", "LP_NUM_THREADS": "0"}
"""What MuJoCo and Mesa read when they are imported, which is why it is said here; without it they ask for a window."""

if sys.platform == "linux":
    for _name, _value in _WITHOUT_A_SCREEN.items():
        os.environ.setdefault(_name, _value)
