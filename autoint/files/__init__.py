"""What is read from others and written whole, and what the machine has. The room that stands on nothing else."""
