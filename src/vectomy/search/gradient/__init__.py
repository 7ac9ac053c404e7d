"""Recipe `gradient`: learns strengths and directions with hooks on the writers' outputs."""
