"""The Debian packages that a cluster needs."""

from pathlib import Path

from commands import Failure, attempt

SCRIPT = Path(__file__).resolve().parents[1] / "packages"


def check_packages(whose: str) -> None:
    """Refuse to go on without the packages of `whose` cluster, and say how to install them."""
    missing = attempt([str(SCRIPT), "--missing", whose]).stdout.split()
    if missing:
        raise Failure(
            f"Missing packages: {' '.join(missing)}\n"
            f"Install them with: scripts/packages --install {whose}\n"
            f"or with:           apt-get install --no-install-recommends {' '.join(missing)}"
        )
