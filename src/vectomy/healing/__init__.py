"""Train an edited model so that what the edit cost comes back, and what it removed does not.

heal_config.py has the recipe; own_answers.py the rows, pairs.py their tokens; projection.py keeps
what is learned out of the removed directions; objectives.py, machine.py and training.py run TRL's
trainers; merging.py writes the result.
"""
