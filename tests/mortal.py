"""A mask generator whose processes wait, and die, when files say so: `--masks mortal:make`, the folder in MORTAL."""

import os
import signal
import time
from pathlib import Path

from fakes import HalvesGenerator

FATAL_IMAGE = "5"


class MortalGenerator(HalvesGenerator):
    """Proposes halves. While MORTAL/wait is there it waits; FATAL_IMAGE costs a process a file MORTAL/death-*."""

    def propose(self, images):
        folder = Path(os.environ["MORTAL"])
        (folder / f"pid-{os.getpid()}").touch()
        while (folder / "wait").exists():
            time.sleep(0.02)
        deaths = sorted(folder.glob("death-*"))
        if deaths and FATAL_IMAGE in [image.image_id for image in images]:
            deaths[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().propose(images)


def make():
    return MortalGenerator()
