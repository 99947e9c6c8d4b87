"""What nearly every program does first, done once in the server that programs are forked from."""

import gc
import os

from PIL import Image

from worldmodel.config import loading
from worldmodel.system import files, provenance

loading.to_yaml(loading.parse(["debug"]))
Image.init()
versions = provenance.collect_versions()  # it reads packages' descriptions, and calls git
provenance.collect_versions = lambda: dict(versions)
os.fsync = os.fstat  # as in conftest.py
files.RETRY_SECONDS = 0.01  # a disk that a test fills stays full
gc.collect()
gc.freeze()  # no collection in a forked program looks at, and so copies, what the server holds
