"""What both optimizer families are built on."""
