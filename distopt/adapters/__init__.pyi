from distopt.adapters import jax as jax
from distopt.adapters import keras as keras
from distopt.adapters import torch as torch
