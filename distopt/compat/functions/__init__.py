"""TensorFlow's functions, a subject a file."""
