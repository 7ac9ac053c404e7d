"""Recipe `tpe`: edits drawn by a tree-structured Parzen estimator."""
