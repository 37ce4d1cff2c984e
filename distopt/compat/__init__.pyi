from distopt.compat import keras as keras
from distopt.compat import tensorflow as tensorflow
