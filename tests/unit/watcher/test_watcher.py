"""The watcher as a process, on a site in a folder, with scripts that stand for Slurm."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.unit.watcher.conftest import GOOD, LOST, NOT_REACHED, wait_for
