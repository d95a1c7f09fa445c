"""What is typed: Hydra with the registries as groups, help, checked files, folders of runs, and the recipe."""
