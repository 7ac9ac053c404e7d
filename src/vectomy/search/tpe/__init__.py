"""Recipe `tpe`: a tree-structured Parzen estimator proposes edits."""
