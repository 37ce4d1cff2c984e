"""Replicas in a Ray cluster: a trainer that is used as Ray Train's are, and groups of plain actors."""

from distopt.errors import MissingExtraError
from distopt.lazy import attach

try:
    import ray as _ray  # noqa: F401 (whoever asks for this package needs it)
except ImportError as error:
    raise MissingExtraError("ray", "ray", "distopt.ray") from error

__getattr__, __dir__, __all__ = attach(__name__, __file__)
