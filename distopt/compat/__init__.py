"""TensorFlow's and Keras' names over distopt, for files that define optimizers, schedules, constraints and losses."""
