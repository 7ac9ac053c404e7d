"""Train an edited model so that what the edit damaged recovers and what it removed stays removed.

heal_config.py        the recipe
own_answers.py        rows from the models' own answers
pairs.py              rows as token ids
projection.py         keeps training out of the removed directions
machine.py            settings that depend on the machine
estimate.py           steps, memory and time before training starts
job.py                the folder of a training
trainable_model.py    loading, LoRA, frozen weights
objectives.py         SFT, DPO, IPO and ORPO as TRL trainers
training.py           runs one
launching.py          runs one in several processes
merging.py            writes the result into a checkpoint
axolotl.py            the same training as an Axolotl configuration
"""
