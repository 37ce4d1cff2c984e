"""What acts on the aggregated gradients before the update: clipping; the user's own follow it."""

from distopt.transformers.clipping import Clipping, global_norm

__all__ = ["Clipping", "global_norm"]
