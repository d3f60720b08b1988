"""Independent implementations that our own is compared with: `make parity` installs them, beside the environment.

They are unpacked without their dependencies into the folders that AMVI_ORACLES lists, and searched last, so that they
cannot shadow a package of the environment. Tests skip where they are absent.
"""

import os
import sys

# Otherwise the `zipformer` package compiles its activations with torch.compile at import.
os.environ.setdefault("K2_ONNX_EXPORT", "1")
sys.path += [path for path in os.environ.get("AMVI_ORACLES", "").split(os.pathsep) if path and path not in sys.path]
