"""Python runs this at its start if the folder is on its path: it switches the pretended GPU on for the process."""

import os

if os.environ.get("KEYHOLE_DEVICE") == "pretend":
    from tests import pretended_gpu

    installed = pretended_gpu.installed()  # kept, since it ends when it is collected
    installed.__enter__()
