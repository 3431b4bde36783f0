"""Repairs an environment in which CUDA builds were installed beside a CPU build of torch.

    python -m deploy.environment.repair

The set-up runs it after the installation; it does nothing if all imports work.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

UNUSED = ("torchaudio", "torchcodec")
"""Imported by transformers where present, used by nothing here: removed where they cannot load."""


def imports(module: str) -> bool:
    """True if a fresh interpreter can import the module."""
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


def install_torchvision_hook() -> Path:
    """Copies the hook into this environment, and a `.pth` file that starts it with every interpreter."""
    site = Path(sysconfig.get_paths()["purelib"])
    target = site / "_omni_rlvr_torchvision_hook.py"
    shutil.copyfile(Path(__file__).with_name("torchvision_hook.py"), target)
    (site / "_omni_rlvr_torchvision_hook.pth").write_text("import _omni_rlvr_torchvision_hook\n")
    return target


def main() -> int:
    """Repairs the environment if necessary, and prints the changes."""
    for module in UNUSED:
        if not imports(module):
            command = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", module]
            subprocess.run(command, check=True)
            print(f"removed {module}: it cannot load here and nothing uses it")
    if not imports("torchvision"):
        print(f"installed {install_torchvision_hook()}")
    broken = [m for m in ("torchvision", "transformers", "vllm") if not imports(m)]
    if broken:
        print(f"still not importable: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
