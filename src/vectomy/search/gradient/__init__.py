"""Recipe `gradient`: strengths and directions learned by hooks on the writers' outputs."""
