"""What features are worth: tasks with labels, and what answers them."""
