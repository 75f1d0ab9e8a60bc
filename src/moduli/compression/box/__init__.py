"""The same function, or one within a tolerance, on a box of inputs."""

from .stable_units import Stability as Stability
from .stable_units import stable as stable
